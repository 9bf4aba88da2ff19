"""A sensor of Claviger: it wakes, gets a fresh key, encrypts, publishes, sleeps."""

import json
import os

import board
from claviger.device import Device, wake
from claviger.flash import Broken, Files, Flash
from claviger.mqtt import Refused, Session


def read(name):
    try:
        with open(board.FLASH + "/" + name) as file:
            return file.read()
    except OSError:
        return None


def forget_label():
    """Overwrites the label and removes it: whoever finds it later could follow every key."""
    path = board.FLASH + "/label.json"
    length = os.stat(path)[6]
    with open(path, "wb") as file:
        file.write(bytes(length))
        file.flush()
    os.remove(path)


def main():
    config = json.loads(read("config.json"))
    label = read("label.json")
    device = Device.boot(Flash(Files(board.FLASH)), label and json.loads(label))
    if device is None:
        raise SystemExit("no key in flash and no label.json: provision the device")
    if label:
        forget_label()
    with open(board.FLASH + "/ca.der", "rb") as file:
        secure = board.secure(config["host"], file.read())

    def connect(device, handle):
        address = (config["host"], config["port"])
        return Session(address, secure, device.name(), device.password(), config["patience_s"], handle)

    period_us = config["period_s"] * 1000000
    try:
        board.join(config)
        wake(device, connect, board.measure)
        print("epoch", device.held.epoch, "read")
    except (OSError, Refused) as error:
        # It wakes again in its slot; nothing is lost but this reading.
        print("not this time:", error)
    except Broken as error:
        raise SystemExit(str(error))
    board.sleep(device.until_slot(board.now_us(), period_us))


main()
