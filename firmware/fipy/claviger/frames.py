"""Key frames, telemetry frames, and readings (PROTOCOL P3)."""

from claviger import aes, schedule
from claviger.schedule import be32

MAX_STEP = 1024
COMPACT = 44


def open_key_frame(secret, current, frame):
    """Opens a compact key frame; None for any that does not lead ahead, or does not verify."""
    if len(frame) != COMPACT:
        return None
    target = int.from_bytes(frame[:4], "big")
    if not current < target <= current + MAX_STEP:
        return None
    qkd = aes.unwrap(schedule.wrapping_key(secret, target), frame[4:])
    return None if qkd is None else (target, qkd)


def _head(major, number):
    """The head of a CBOR item, in its shortest form."""
    if number < 24:
        return bytes([major << 5 | number])
    for extra, length in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * length:
            return bytes([major << 5 | extra]) + number.to_bytes(length, "big")
    raise ValueError("a number of more than 64 bits")


def _string(data):
    return _head(2, len(data)) + data


def _number(number):
    return _head(0, number) if number >= 0 else _head(1, -1 - number)


def seal_telemetry(keys, eui, epoch, counter, plaintext):
    """Seals a message as COSE_Encrypt0 by AES-CCM; a counter is never used for two."""
    up, iv = keys
    partial = counter.to_bytes(4, "big").lstrip(b"\0") or b"\0"
    protected = b"\xa3\x01\x18\x1f\x04" + _string(be32(epoch)) + b"\x06" + _string(partial)
    aad = b"\x83\x68Encrypt0" + _string(protected) + _string(b"claviger/1 up" + eui)
    start = iv + bytes(aes.NONCE - len(iv))
    number = counter.to_bytes(aes.NONCE, "big")
    nonce = bytes(a ^ b for a, b in zip(start, number))
    sealed = aes.seal_ccm(up, nonce, plaintext, aad)
    return b"\xd0\x83" + _string(protected) + b"\xa0" + _string(sealed)


def encode_reading(reading):
    """Writes a reading: hundredths of a degree, thousandths, lux, millivolts, microseconds."""
    names = ("temperature_centi_c", "humidity_permille", "light_lux", "battery_mv", "taken_us")
    members = (bytes([1 + n]) + _number(reading[name]) for n, name in enumerate(names))
    return b"\xa5" + b"".join(members)
