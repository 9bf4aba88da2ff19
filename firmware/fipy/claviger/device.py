"""One wake of a device: take a key if one comes, measure, seal, publish."""

from binascii import hexlify, unhexlify
from hashlib import sha256

from claviger import frames, schedule
from claviger.flash import Held

RESERVED = 64


class Device:
    """The state that lies in flash, and what may be done with it."""

    def __init__(self, flash, held):
        self.flash = flash
        self.held = held
        self.counter = held.limit
        self.keys = None

    @staticmethod
    def boot(flash, label):
        """Starts from flash; from a label where there is one: a new bootstrap key is a new life. None
        without either."""
        if label is None:
            held = flash.boot()
            return held and Device(flash, held)
        root, secret = schedule.split(unhexlify(label["bootstrap"]))
        return Device(flash, flash.commit(Held(1, unhexlify(label["eui"]), 0, 0, root, secret)))

    def name(self):
        return hexlify(self.held.eui).decode()

    def password(self):
        return schedule.mqtt_password(self.held.secret, self.held.eui)

    def take(self, frame):
        """Takes a key frame; only one that verifies changes anything, and only through both slots."""
        opened = frames.open_key_frame(self.held.secret, self.held.epoch, frame)
        if opened:
            epoch, qkd = opened
            self.held = self.flash.commit(self.held.renewed(epoch, qkd, RESERVED))
            self.counter, self.keys = 0, None

    def has_key(self):
        return self.held.epoch > 0

    def seal(self, reading):
        """Seals a reading under the next counter, which ends that counter's life."""
        held = self.held
        if self.counter >= held.limit:
            held = self.held = self.flash.commit(held.reserving(held.limit + RESERVED))
        if self.keys is None:
            self.keys = schedule.data_keys(held.root, held.secret, held.eui, held.epoch)
        counter, self.counter = self.counter, self.counter + 1
        plaintext = frames.encode_reading(reading)
        return frames.seal_telemetry(self.keys, held.eui, held.epoch, counter, plaintext)

    def until_slot(self, now_us, period_us):
        """Returns the microseconds until the device's next slot: fleets spread by their names."""
        slot = int.from_bytes(sha256(self.held.eui).digest()[:8], "big") % period_us
        wait = (slot - now_us) % period_us
        return wait or period_us


def wake(device, connect, measure):
    """Does one wake; `connect` opens a session for a device and a handler of what is pushed."""
    session = connect(device, device.take)
    session.subscribe("claviger/v1/" + device.name() + "/key")
    # Under epoch 0 nothing is said: the first key has to come first.
    session.wait(device.has_key)
    frame = device.seal(measure())
    session.publish("claviger/v1/" + device.name() + "/up", frame)
    session.close()
