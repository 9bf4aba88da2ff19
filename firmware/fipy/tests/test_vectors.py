"""The device protocol against the vectors that other implementations of it read too.

Usage: micropython tests/test_vectors.py (in firmware/fipy)
"""

import json
import sys
from binascii import hexlify, unhexlify

sys.path.insert(0, ".")
from claviger import aes, frames, schedule

passed = 0


def check(name, found, expected):
    global passed
    found = hexlify(found).decode() if isinstance(found, bytes) else found
    if found != expected:
        print(name, "is", found, "but should be", expected)
        sys.exit(1)
    passed += 1


def check_key_wrap():
    """RFC 3394 §4.6."""
    key = bytes(range(32))
    wrapped = unhexlify(
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    )
    data = "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"
    check("key unwrap", aes.unwrap(key, wrapped), data)
    for at in range(len(wrapped)):
        forged = bytearray(wrapped)
        forged[at] ^= 1
        check("a forged key", aes.unwrap(key, bytes(forged)), None)


def check_secrets(entry, secret, eui):
    check("gateway_secret", secret, entry["gateway_secret"])
    check("mqtt_password", schedule.mqtt_password(secret, eui), entry["mqtt_password"])


def main():
    with open("../../vectors/device_protocol.json") as file:
        vectors = json.load(file)
    check_key_wrap()
    eui = unhexlify(vectors["eui"])
    root, secret = schedule.split(unhexlify(vectors["bootstrap_key"]))
    check("device_root", root, vectors["device_root"])
    check_secrets(vectors["bootstrap_epoch"], secret, eui)
    current = 0
    for entry in vectors["epochs"]:
        frame = unhexlify(entry["key_frame_compact"])
        epoch, qkd = frames.open_key_frame(secret, current, frame)
        check("epoch", epoch, entry["epoch"])
        check("qkd_key", qkd, entry["qkd_key"])
        # Not twice, not too far ahead, not cut, not under another secret.
        check("a past frame", frames.open_key_frame(secret, epoch, frame), None)
        check("a late frame", frames.open_key_frame(secret, epoch + 1, frame), None)
        check("a cut frame", frames.open_key_frame(secret, current, frame[:-1]), None)
        check("a foreign frame", frames.open_key_frame(root, current, frame), None)
        secret = schedule.next_secret(secret, qkd, eui, current, epoch)
        check_secrets(entry, secret, eui)
        keys = schedule.data_keys(root, secret, eui, epoch)
        for message in entry["telemetry"]:
            plaintext = unhexlify(message["plaintext"])
            sealed = frames.seal_telemetry(keys, eui, epoch, message["counter"], plaintext)
            check("telemetry", sealed, message["frame_ccm"])
        current = epoch
    print(passed, "passed")


main()
