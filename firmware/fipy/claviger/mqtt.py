"""As much of MQTT 3.1.1 as a device needs: log in, listen to one topic, publish and be told."""

import socket


class Refused(Exception):
    """The broker refuses the log-in: unknown, or under a key that is past."""


class Session:
    """A connection with the broker; what arrives goes to `handle`."""

    def __init__(self, address, secure, name, password, patience, handle):
        plain = socket.socket()
        plain.settimeout(patience)
        plain.connect(socket.getaddrinfo(address[0], address[1])[0][-1])
        self.stream = secure(plain)
        self.handle = handle
        self.number = 0
        # User and password, and a session that outlasts the connection.
        head = _text("MQTT") + b"\x04\xc0\x00\x3c"
        self._send(0x10, head + _text(name) + _text(name) + _text(password))
        kind, body = self._receive()
        if kind != 0x20 or body[1] != 0:
            raise Refused("the broker refuses the log-in")

    def subscribe(self, topic):
        self._request(0x82, _text(topic) + b"\x01", 0x90)

    def publish(self, topic, payload):
        """Publishes and waits until the gateway has the message durably."""
        self._request(0x32, None, 0x40, _text(topic), payload)

    def wait(self, is_done):
        """Takes messages until `is_done`, or until the connection's patience ends."""
        while not is_done():
            self._take(self._receive())

    def close(self):
        self._send(0xE0, b"")
        self.stream.close()

    def _request(self, kind, body, answer, topic=b"", payload=b""):
        self.number = self.number % 0xFFFF + 1
        number = self.number.to_bytes(2, "big")
        self._send(kind, topic + number + (payload if body is None else body))
        while True:
            found, said = self._receive()
            if found == answer and said[:2] == number:
                return
            self._take((found, said))

    def _take(self, message):
        kind, body = message
        if kind & 0xF0 != 0x30:
            return
        start = 2 + int.from_bytes(body[:2], "big")
        if kind & 0x06:
            number = body[start : start + 2]
            start += 2
            self._send(0x40, number)
        self.handle(body[start:])

    def _send(self, kind, body):
        length, left = b"", len(body)
        while True:
            left, byte = left >> 7, left & 0x7F
            length += bytes([byte | (0x80 if left else 0)])
            if not left:
                break
        self.stream.write(bytes([kind]) + length + body)

    def _receive(self):
        kind = self._exactly(1)[0]
        length, shift = 0, 0
        while True:
            byte = self._exactly(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return kind, self._exactly(length)

    def _exactly(self, length):
        data = b""
        while len(data) < length:
            part = self.stream.read(length - len(data))
            if not part:
                raise OSError("the broker has closed the connection")
            data += part
        return data


def _text(text):
    data = text.encode()
    return len(data).to_bytes(2, "big") + data
