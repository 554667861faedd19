"""What clients see when the daemon is told to stop: 1012 with a hint when to come back, each its own connection.

usage: drain.py ws://HOST:PORT PID-OF-THE-DAEMON
"""

import os
import re
import signal
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from cases import DEADLINE, case, run

BASE, PID = sys.argv[1].rstrip("/"), int(sys.argv.pop())
PATHS = ["/ws", "/echo", "/ws/ann", "/client/hubs/chat"]


@case("SIGTERM closes every connection with 1012 and a reconnect-after-ms hint")
def stopped():
    sockets = [connect(BASE + path, proxy=None, open_timeout=DEADLINE, legacy=True) for path in PATHS]
    os.kill(PID, signal.SIGTERM)
    for path, ws in zip(PATHS, sockets):
        try:
            while True:
                ws.recv(timeout=DEADLINE)
        except ConnectionClosed as end:
            close = end.rcvd
        assert close and close.code == 1012, f"{path}: closed with {close}"
        assert re.fullmatch(r"reconnect-after-ms=\d+", close.reason), f"{path}: the reason is {close.reason!r}"


run()
