#!/usr/bin/env python3
"""Checks device_protocol.json against PROTOCOL.md P3 without any code of Claviger.

Usage: pip install cryptography && python3 vectors/check_device_protocol.py
"""

import base64
import hmac
import json
import pathlib

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap


def extract(salt, ikm):
    return hmac.digest(salt, ikm, "sha256")


def expand(prk, info, length=32):
    """RFC 5869 for at most one block of SHA-256."""
    return hmac.digest(prk, info + b"\x01", "sha256")[:length]


def be32(number):
    return number.to_bytes(4, "big")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def byte_string(data):
    """CBOR byte string below 256 bytes, shortest head."""
    return (bytes([0x40 + len(data)]) if len(data) < 24 else bytes([0x58, len(data)])) + data


def cose(key, nonce, epoch, iv_label, iv, external_aad, plaintext, algorithm=b"\x03"):
    """COSE_Encrypt0, RFC 9052: {1: algorithm, 4: kid, 5 or 6: IV}, all of it protected."""
    protected = b"\xa3\x01" + algorithm + b"\x04" + byte_string(be32(epoch)) + bytes([iv_label]) + byte_string(iv)
    aad = b"\x83\x68Encrypt0" + byte_string(protected) + byte_string(external_aad)
    cipher = AESGCM(key) if algorithm == b"\x03" else AESCCM(key, tag_length=16)
    sealed = cipher.encrypt(nonce, plaintext, aad)
    return b"\xd0\x83" + byte_string(protected) + b"\xa0" + byte_string(sealed)


def check(name, expected, found):
    found = found.hex() if isinstance(found, bytes) else found
    if found != expected:
        raise SystemExit(f"{name}: the file says {expected}, the protocol says {found}")


def check_secrets(entry, eui, gateway):
    check("gateway_secret", entry["gateway_secret"], gateway)
    request_key = expand(gateway, b"claviger/1 req")
    request = f"GET /v1/devices/{eui.hex()}/key?have={entry['epoch']}"
    mac = hmac.digest(request_key, request.encode(), "sha256")
    check("request_key", entry["request_key"], request_key)
    check("request", entry["request"], request)
    check("request_mac", entry["request_mac"], mac)
    authorization = f"Claviger epoch={entry['epoch']}, mac={base64url(mac)}"
    check("authorization", entry["authorization"], authorization)
    login = hmac.digest(expand(gateway, b"claviger/1 mqtt"), b"connect" + eui, "sha256")
    check("mqtt_password", entry["mqtt_password"], base64url(login))
    for version in ("12", "13"):
        check("psk" + version, entry["psk" + version], expand(gateway, b"claviger/1 psk" + version.encode()))
        identity = f"{eui.hex()}:{entry['epoch']}:{version}"
        check("psk identity", entry[f"psk{version}_identity"], identity)
    check("oscore", entry["oscore_master_secret"], expand(gateway, b"claviger/1 oscore"))
    check("id context", entry["oscore_id_context"], eui + be32(entry["epoch"]))


def check_telemetry(entry, eui, root, gateway):
    epoch = entry["epoch"]
    data = expand(extract(root, gateway), b"claviger/1 data" + eui + be32(epoch))
    up, iv_up = expand(data, b"claviger/1 up"), expand(data, b"claviger/1 iv-up", 8)
    check("up", entry["up"], up)
    check("down", entry["down"], expand(data, b"claviger/1 down"))
    check("iv_up", entry["iv_up"], iv_up)
    for message in entry["telemetry"]:
        counter = message["counter"]
        partial = counter.to_bytes(max(1, (counter.bit_length() + 7) // 8), "big")
        nonce = bytes(a ^ b for a, b in zip(iv_up.ljust(12, b"\0"), partial.rjust(12, b"\0")))
        plaintext = bytes.fromhex(message["plaintext"])
        frame = cose(up, nonce, epoch, 6, partial, b"claviger/1 up" + eui, plaintext)
        check(f"telemetry {epoch}/{counter}", message["frame"], frame)
        nonce = bytes(a ^ b for a, b in zip(iv_up.ljust(13, b"\0"), partial.rjust(13, b"\0")))
        frame = cose(up, nonce, epoch, 6, partial, b"claviger/1 up" + eui, plaintext, b"\x18\x1f")
        check(f"telemetry {epoch}/{counter} by CCM", message["frame_ccm"], frame)


def check_step(entry, prev_gateway):
    qkd, iv = bytes.fromhex(entry["qkd_key"]), bytes.fromhex(entry["key_frame_iv"])
    kek = expand(prev_gateway, b"claviger/1 kek" + be32(entry["epoch"]))
    check("key_frame", entry["key_frame"], cose(kek, iv, entry["epoch"], 5, iv, b"", qkd))
    compact = be32(entry["epoch"]) + aes_key_wrap(kek, qkd)
    check("key_frame_compact", entry["key_frame_compact"], compact)
    return qkd


def main():
    vectors = json.loads(pathlib.Path(__file__).with_name("device_protocol.json").read_text())
    eui, bootstrap = bytes.fromhex(vectors["eui"]), bytes.fromhex(vectors["bootstrap_key"])
    root, gateway = (expand(bootstrap, b"claviger/1 " + half) for half in (b"root", b"gateway"))
    check("device_root", vectors["device_root"], root)
    check_secrets(vectors["bootstrap_epoch"], eui, gateway)
    for entry in vectors["epochs"]:
        qkd = check_step(entry, gateway)
        info = b"claviger/1 epoch" + eui + be32(entry["prev"]) + be32(entry["epoch"])
        gateway = expand(extract(expand(gateway, b"claviger/1 chain"), qkd), info)
        check_secrets(entry, eui, gateway)
        check_telemetry(entry, eui, root, gateway)
    print(f"{len(vectors['epochs'])} epochs agree")


main()
