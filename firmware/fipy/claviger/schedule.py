"""From the bootstrap key to every key of every epoch (PROTOCOL P3)."""

from binascii import b2a_base64
from hashlib import sha256


def be32(number):
    return number.to_bytes(4, "big")


def hmac(key, message):
    """HMAC-SHA256 (RFC 2104) for keys of at most 64 bytes."""
    key = key + bytes(64 - len(key))
    inner = sha256(bytes(b ^ 0x36 for b in key) + message).digest()
    return sha256(bytes(b ^ 0x5C for b in key) + inner).digest()


def expand(prk, info, length=32):
    """HKDF-Expand (RFC 5869) for at most one block."""
    return hmac(prk, info + b"\x01")[:length]


def split(bootstrap):
    """Splits a bootstrap key into the device's root R and the gateway secret of epoch 0."""
    return expand(bootstrap, b"claviger/1 root"), expand(bootstrap, b"claviger/1 gateway")


def next_secret(secret, qkd, eui, prev, epoch):
    """Returns the gateway secret of `epoch`, which follows on that of `prev` by a QKD key."""
    info = b"claviger/1 epoch" + eui + be32(prev) + be32(epoch)
    return expand(hmac(expand(secret, b"claviger/1 chain"), qkd), info)


def wrapping_key(secret, target):
    return expand(secret, b"claviger/1 kek" + be32(target))


def mqtt_password(secret, eui):
    mac = hmac(expand(secret, b"claviger/1 mqtt"), b"connect" + eui)
    text = b2a_base64(mac).decode().rstrip("\n=")
    return text.replace("+", "-").replace("/", "_")


def data_keys(root, secret, eui, epoch):
    """Returns the key towards the platform and the start of its nonces."""
    data = expand(hmac(root, secret), b"claviger/1 data" + eui + be32(epoch))
    return expand(data, b"claviger/1 up"), expand(data, b"claviger/1 iv-up", 8)
