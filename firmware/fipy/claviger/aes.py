"""AES-256 by the block, and the two modes that a device needs.

The hardware gives AES alone; key unwrap (RFC 3394) and CCM (RFC 3610) stand on its single blocks.
"""

try:
    from cryptolib import aes as _Aes

    def _cipher(key):
        return _Aes(key, 1)

except ImportError:  # Pycom
    from crypto import AES

    def _cipher(key):
        return AES(key, AES.MODE_ECB)


TAG = 16
NONCE = 13


def _xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def unwrap(key, wrapped):
    """Unwraps a key (RFC 3394 §2.2.2); None if it was not wrapped under this one."""
    n = len(wrapped) // 8 - 1
    a = wrapped[:8]
    blocks = [wrapped[8 * i : 8 * i + 8] for i in range(1, n + 1)]
    cipher = _cipher(key)
    for j in range(5, -1, -1):
        for i in range(n, 0, -1):
            step = (n * j + i).to_bytes(8, "big")
            block = cipher.decrypt(_xor(a, step) + blocks[i - 1])
            a, blocks[i - 1] = block[:8], block[8:]
    return b"".join(blocks) if a == b"\xa6" * 8 else None


def _padded(data):
    return data + bytes(-len(data) % 16)


def _counter(nonce, i):
    return b"\x01" + nonce + i.to_bytes(2, "big")


def _mac(cipher, nonce, data, aad):
    flags = (0x40 if aad else 0) | (TAG - 2) // 2 << 3 | 1
    first = bytes([flags]) + nonce + len(data).to_bytes(2, "big")
    named = _padded(len(aad).to_bytes(2, "big") + aad) if aad else b""
    blocks = first + named + _padded(data)
    mac = bytes(16)
    for i in range(0, len(blocks), 16):
        mac = cipher.encrypt(_xor(mac, blocks[i : i + 16]))
    return mac


def seal_ccm(key, nonce, data, aad):
    """Encrypts with AES-CCM-16-128-256: a nonce of 13 bytes, a tag of 16."""
    cipher = _cipher(key)
    tag = _xor(_mac(cipher, nonce, data, aad), cipher.encrypt(_counter(nonce, 0)))
    sealed = b""
    for i in range(0, len(data), 16):
        stream = cipher.encrypt(_counter(nonce, i // 16 + 1))
        sealed += _xor(data[i : i + 16], stream)
    return sealed + tag
