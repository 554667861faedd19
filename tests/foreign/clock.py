"""A daemon whose clock is set while it serves: libfaketime shows it another time of day than the machine's.

usage: clock.py PATH-OF-THE-DAEMON
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from cases import DEADLINE, case, equal, run

BINARY = sys.argv.pop()
SECRET = b"32 bytes of a secret, at the least"
HOUR = 3600


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(**claims):
    text = base64url(b'{"alg":"HS256"}') + b"." + base64url(json.dumps(claims).encode())
    return (text + b"." + base64url(hmac.digest(SECRET, text, hashlib.sha256))).decode()


class Daemon:
    """Pings after a second of silence, and closes a connection with its token."""

    def __init__(self, folder):
        self.offset, key = os.path.join(folder, "offset"), os.path.join(folder, "key")
        with open(key, "wb") as file:
            file.write(SECRET)
        self.set_clock(0)
        preload = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1".replace("x86_64", os.uname().machine)
        fake = {"LD_PRELOAD": preload, "FAKETIME_TIMESTAMP_FILE": self.offset, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        flags = ["--listen=127.0.0.1:0", "--control=off", "--ping-interval=1s", "--ping-timeout=2s", f"--token-key=HS256:{key}", "--close-on-expiry"]
        self.process = subprocess.Popen([BINARY, *flags], env={**os.environ, **fake}, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        self.base = "ws://" + re.search(r"listening on (\S+)", line).group(1)

    def set_clock(self, seconds):
        """Sets the daemon's clock that far from the machine's, all at once."""
        with open(self.offset + ".new", "w") as file:
            file.write(f"{seconds:+d}")
        os.rename(self.offset + ".new", self.offset)

    def open(self, expires_in):
        headers = {"Authorization": "Bearer " + token(exp=int(time.time()) + expires_in)}
        return connect(self.base + "/echo", proxy=None, open_timeout=DEADLINE, additional_headers=headers, legacy=True)

    def expect_refusal(self, expires_in):
        try:
            self.open(expires_in).close()
        except InvalidStatus as error:
            return equal(error.response.status_code, 401)
        raise AssertionError("a token was believed that has expired by the daemon's clock")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        equal(self.process.wait(DEADLINE), 0)


@contextlib.contextmanager
def daemon():
    with tempfile.TemporaryDirectory() as folder:
        started = Daemon(folder)
        try:
            yield started
            started.stop()
        finally:
            started.process.kill()


def expect_life(ws):
    """Echoes, and lives through a silence that is longer than it takes to be pinged and to be given up."""
    for _ in range(20):
        ws.send("still here")
        equal(ws.recv(timeout=DEADLINE), "still here")
    try:
        ws.recv(timeout=4)
    except TimeoutError:
        ws.send("and here")
        return equal(ws.recv(timeout=DEADLINE), "and here")
    raise AssertionError("something came that nobody had sent")


def survives(jump):
    with daemon() as it:
        ws = it.open(expires_in=2 * HOUR)
        it.set_clock(jump)
        expect_life(ws)
        equal(it.process.poll(), None)
        ws.close()


@case("a clock that is set back an hour harms no open connection")
def back():
    survives(-HOUR)


@case("nor does one that is set on a day, not even where the token has expired by it")
def forward():
    survives(24 * HOUR)


@case("tokens are judged by the clock as it is when they come")
def tokens():
    with daemon() as it:
        it.open(expires_in=600).close()
        it.set_clock(HOUR)
        it.expect_refusal(expires_in=600)
        it.set_clock(-HOUR)
        it.open(expires_in=600 - HOUR).close()
        it.expect_refusal(expires_in=-HOUR - 60)


run()
