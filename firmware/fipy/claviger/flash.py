"""Two slots, each a whole copy of what the device must not lose (PROTOCOL P3).

A change is written to one slot, read back, and only then to the other: a power cut leaves one of them
whole. Counters are reserved ahead, so that none is used for two messages whatever the power does.
"""

from claviger import schedule
from claviger.schedule import be32

MAGIC = b"CLV1"
LENGTH = 92


def crc32(data):
    """CRC-32 (ISO-HDLC); not every board's firmware has one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Broken(Exception):
    """The flash does not keep what is written: nothing may be sent any more."""


class Held:
    """What one slot holds."""

    def __init__(self, sequence, eui, epoch, limit, root, secret):
        self.sequence = sequence
        self.eui = eui
        self.epoch = epoch
        self.limit = limit
        self.root = root
        self.secret = secret

    def encode(self):
        numbers = be32(self.epoch) + be32(self.limit)
        body = MAGIC + be32(self.sequence) + self.eui + numbers + self.root + self.secret
        return body + be32(crc32(body))

    @staticmethod
    def decode(data):
        if len(data) != LENGTH or data[:4] != MAGIC or be32(crc32(data[:88])) != data[88:]:
            return None
        number = lambda at: int.from_bytes(data[at : at + 4], "big")
        return Held(number(4), data[8:16], number(16), number(20), data[24:56], data[56:88])

    def reserving(self, limit):
        return Held(self.sequence + 1, self.eui, self.epoch, limit, self.root, self.secret)

    def renewed(self, epoch, qkd, limit):
        secret = schedule.next_secret(self.secret, qkd, self.eui, self.epoch, epoch)
        return Held(self.sequence + 1, self.eui, epoch, limit, self.root, secret)


class Flash:
    """The slots; `store` reads and writes them by their number, 0 or 1."""

    ATTEMPTS = 3

    def __init__(self, store):
        self.store = store

    def boot(self):
        """Returns what the newest valid slot holds, which then is in both; None if neither is valid."""
        slots = [Held.decode(self.store.read(n)) for n in (0, 1)]
        valid = [held for held in slots if held]
        if not valid:
            return None
        newest = max(valid, key=lambda held: held.sequence)
        for n in (0, 1):
            if self.store.read(n) != newest.encode():
                self._write(n, newest)
        return newest

    def commit(self, held):
        """Makes `held` what both slots hold; returns it."""
        first = held.sequence % 2
        self._write(first, held)
        self._write(1 - first, held)
        return held

    def _write(self, n, held):
        data = held.encode()
        for _ in range(self.ATTEMPTS):
            self.store.write(n, data)
            if self.store.read(n) == data:
                return
        raise Broken("a slot does not keep what is written")


class Files:
    """Slots as two files in a folder."""

    def __init__(self, folder):
        self.names = [folder + "/claviger." + name for name in ("a", "b")]

    def read(self, n):
        try:
            with open(self.names[n], "rb") as file:
                return file.read()
        except OSError:
            return b""

    def write(self, n, data):
        with open(self.names[n], "wb") as file:
            file.write(data)
            file.flush()
