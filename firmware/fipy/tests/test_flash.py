"""Power cuts at every write and every byte, any number of times: no counter serves twice, no device is lost.

Usage: micropython tests/test_flash.py (in firmware/fipy)
"""

import sys

sys.path.insert(0, ".")
from claviger import aes, schedule
from claviger.device import Device
from claviger.flash import LENGTH, Broken, Flash, Held, crc32

EUI = b"\x02\x00\x5e\xff\xfe\x10\x00\x01"
LABEL = {"eui": "02005efffe100001", "bootstrap": "07" * 32}


class Cut(Exception):
    """The power has failed."""


class Cells:
    """Slots in memory, whose power fails in a write at a byte."""

    def __init__(self):
        self.slots = [b"", b""]
        self.left = None
        self.at = 0

    def read(self, n):
        return self.slots[n]

    def write(self, n, data):
        if self.left == 0:
            self.left = None
            old = self.slots[n][self.at :] if self.at % 2 else b"\xff" * (LENGTH - self.at)
            self.slots[n] = data[: self.at] + old
            raise Cut()
        if self.left is not None:
            self.left -= 1
        self.slots[n] = data


class Site:
    """Gives key frames, and holds every counter that it sees to its one message."""

    def __init__(self):
        self.root, self.secret = schedule.split(bytes([7] * 32))
        self.epoch = 0
        self.next = None
        self.seen = {}

    def frame(self, epoch):
        if self.next and epoch == self.next[0]:
            self.epoch, self.secret = self.next[0], self.next[2]
            self.next = None
        assert epoch == self.epoch, "the device is where the site has never been"
        if self.next is None:
            target, qkd = self.epoch + 1, bytes([self.epoch % 256] * 32)
            frame = target.to_bytes(4, "big") + wrap(schedule.wrapping_key(self.secret, target), qkd)
            follows = schedule.next_secret(self.secret, qkd, EUI, self.epoch, target)
            self.next = (target, frame, follows)
        return self.next[1]

    def take(self, epoch, counter, message):
        assert self.seen.setdefault((epoch, counter), message) == message, "a counter served twice"


def wrap(key, data):
    """RFC 3394 §2.2.1: what `unwrap` undoes."""
    a, blocks = b"\xa6" * 8, [data[i : i + 8] for i in range(0, len(data), 8)]
    cipher = aes._cipher(key)
    for j in range(6):
        for i in range(len(blocks)):
            block = cipher.encrypt(a + blocks[i])
            step = (len(blocks) * j + i + 1).to_bytes(8, "big")
            a, blocks[i] = bytes(x ^ y for x, y in zip(block[:8], step)), block[8:]
    return a + b"".join(blocks)


def live(cells, site, label, messages, n_renewals):
    """Boots, and renews and seals until the power fails; tells whether it did not."""
    try:
        device = Device.boot(Flash(cells), label)
        assert device is not None, "the device is lost"
        for _ in range(n_renewals):
            device.take(site.frame(device.held.epoch))
            for _ in range(3):
                message = next(messages)
                counter = None
                device.seal({name: message for name in NAMES})
                counter = device.counter - 1
                site.take(device.held.epoch, counter, message)
        return True
    except Cut:
        return False


NAMES = ("temperature_centi_c", "humidity_permille", "light_lux", "battery_mv", "taken_us")


def numbers():
    n = 0
    while True:
        n += 1
        yield n


def main():
    assert crc32(b"123456789") == 0xCBF43926
    passed = 0
    for left in range(12):
        for at in range(0, LENGTH + 1, 7):
            cells, site, messages = Cells(), Site(), numbers()
            cells.left, cells.at = left, at
            # Its label lies there until both slots hold what came of it.
            whole = live(cells, site, LABEL, messages, 4)
            while not whole:
                begun = any(Held.decode(slot) for slot in cells.slots) and left > 1
                cells.left, cells.at = (left + at) % 5, (at * 3) % LENGTH
                whole = live(cells, site, None if begun else LABEL, messages, 2)
                left, at = max(left, 2), at + 11
            cells.left = None
            assert live(cells, site, None, messages, 2)
            assert cells.slots[0] == cells.slots[1]
            passed += 1

    class Worn(Cells):
        def write(self, n, data):
            self.slots[n] = data[:-1] + b"\0"

    try:
        Device.boot(Flash(Worn()), LABEL)
        sys.exit("a worn flash is not noticed")
    except Broken:
        passed += 1
    assert Device.boot(Flash(Cells()), None) is None
    print(passed + 1, "passed")


main()
