"""The daemon and bare clients of it, for the guards: blocking sockets that do the same each time."""

import os
import socket
import struct
import subprocess
import time

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3
PATIENCE = 30  # seconds, for anything: valgrind is slow, and so is a busy machine


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(command, port):
    """Starts the daemon and returns its process and its first client, which is connected to /echo."""
    # These clients answer no close frame: the daemon need not wait for that.
    flags = ["--listen", f"127.0.0.1:{port}", "--log-level", "off", "--close-timeout", "100ms"]
    environment = {**os.environ, "HUBNERITE_CONTROL": "127.0.0.1:0"}
    process = subprocess.Popen([*command, *flags], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return process, Client(port, "/echo")
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"the daemon does not start: {' '.join(command)}") from None


def stop(process):
    process.terminate()
    if process.wait(PATIENCE) != 0:
        raise SystemExit(f"the daemon ended with {process.returncode}")


class Client:
    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        head = self._until(lambda bytes: bytes.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in bytes else None)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"{path} is answered {head.splitlines()[0].decode()}")

    def send(self, *texts):
        """Sends them in one piece, so that they come in one piece."""
        self.socket.sendall(b"".join(map(self._frame, texts)))

    @staticmethod
    def _frame(text):
        payload = text.encode()
        length = struct.pack("!BB", 0x81, 0x80 | len(payload)) if len(payload) < 126 else struct.pack("!BBH", 0x81, 0xFE, len(payload))
        return length + bytes(4) + payload  # a mask of zeros changes nothing

    def receive(self):
        """The payload of the next frame, which has at most 65,535 bytes."""
        frame = self._until(frame_length)
        return frame[2 if frame[1] < 126 else 4 :].decode()

    def _until(self, length_of):
        while (length := length_of(self.unread)) is None or len(self.unread) < length:
            read = self.socket.recv(1 << 16)
            if not read:
                raise SystemExit("the daemon has closed a connection")
            self.unread += read
        whole, self.unread = self.unread[:length], self.unread[length:]
        return whole


def frame_length(read):
    if len(read) < 2 or (read[1] == 126 and len(read) < 4):
        return None
    return 4 + struct.unpack("!H", read[2:4])[0] if read[1] == 126 else 2 + read[1]
