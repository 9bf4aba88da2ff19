"""What is the board's: radio, sensors, clock and sleep. All else is the same on every device."""

import os
import time

import machine
import network

try:
    import tls
except ImportError:  # before MicroPython 1.23
    import ssl as tls

# Where the board's flash is; in tests another folder.
FLASH = os.getenv("CLAVIGER_FLASH") if hasattr(os, "getenv") else None
FLASH = FLASH or "/flash"
# MicroPython counts from 2000 on most boards, and from 1970 on some.
EPOCH_S = 946684800 if time.gmtime(0)[0] == 2000 else 0


def join(config):
    """Joins the Wi-Fi network and waits for it."""
    if "wifi" not in config:
        return
    radio = network.WLAN(getattr(network, "STA_IF", 0))
    radio.active(True)
    radio.connect(config["wifi"]["name"], config["wifi"]["password"])
    for _ in range(100):
        if radio.isconnected():
            return
        time.sleep_ms(100)
    raise OSError("the Wi-Fi network does not answer")


def now_us():
    """Returns the time since 1970 in microseconds, as well as the board knows it."""
    return (int(time.time()) + EPOCH_S) * 1000000


def secure(host, authority):
    """Returns what makes a connection one of TLS with the gateway, proven by its certificate."""
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    context.load_verify_locations(authority)
    return lambda plain: context.wrap_socket(plain, server_hostname=host)


def measure():
    """Reads the sensors of a Pysense shield."""
    from LTR329ALS01 import LTR329ALS01
    from SI7006A20 import SI7006A20
    from pysense import Pysense

    shield = Pysense()
    air, light = SI7006A20(shield), LTR329ALS01(shield)
    return {
        "temperature_centi_c": round(100 * air.temperature()),
        "humidity_permille": round(10 * air.humidity()),
        "light_lux": int(light.lux()),
        "battery_mv": round(1000 * shield.read_battery_voltage()),
        "taken_us": now_us(),
    }


def sleep(us):
    """Sleeps; the board starts anew when it wakes."""
    machine.deepsleep(us // 1000)
