"""examples/fastapi as its README runs it: uvicorn, the daemon, and clients of three users.

usage: fastapi_backend.py PATH-OF-THE-DAEMON
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from cases import DEADLINE, case, equal, run, wait_until

BINARY = sys.argv.pop(1)
EXAMPLE = os.path.join(os.path.dirname(__file__), "../../examples/fastapi")

# Bound before the daemon is told of it; whoever connects waits until uvicorn accepts.
application = socket.create_server(("127.0.0.1", 0))
backend = f"http://127.0.0.1:{application.getsockname()[1]}"

flags = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--event-handler", f"{backend}/events"]
pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
daemon = subprocess.Popen([BINARY, *flags], **pipes)
address = next(found[1] for found in (re.search(r" listening on (127\S+:\d+)", line) for line in daemon.stderr) if found)
connection_string = next(line.strip() for line in daemon.stdout if "AccessKey=" in line)

uvicorn = subprocess.Popen(
    [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLE, "--fd", str(application.fileno()), "main:app"],
    env={**os.environ, "HUBNERITE_CONNECTION_STRING": connection_string},
    pass_fds=[application.fileno()],
)


def users():
    with urllib.request.urlopen(f"{backend}/users", timeout=DEADLINE) as answer:
        return json.load(answer)


class Client:
    def __init__(self, user):
        self.socket = connect(f"ws://{address}/ws/{user}?token={user}-token", proxy=None, open_timeout=DEADLINE)
        equal(self.next()["userId"], user)

    def say(self, data, ack_id=None):
        frame = {"type": "event", "event": "message", "data": data}
        self.socket.send(json.dumps(frame if ack_id is None else {**frame, "ackId": ack_id}))

    def next(self):
        return json.loads(self.socket.recv(timeout=DEADLINE))

    def expect(self, sender, text):
        frame = self.next()
        equal([frame["from"], frame["data"]], ["server", {"from": sender, "text": text}])


@contextlib.contextmanager
def clients(*names):
    all_of_them = [Client(name) for name in names]
    try:
        yield all_of_them
    finally:
        for client in all_of_them:
            client.socket.close()
        wait_until(lambda: users() == {}, "the application to hear that all have left")


@case("who has no token, or that of another, is refused before the socket opens")
def refused():
    for path, status in [("/ws/alice", 401), ("/ws/alice?token=x", 401), ("/ws/alice?token=bob-token", 403)]:
        try:
            connect(f"ws://{address}{path}", proxy=None, open_timeout=DEADLINE).close()
            raise AssertionError(f"{path} was let in")
        except InvalidStatus as refusal:
            equal(refusal.response.status_code, status)
    equal(users(), {})


@case("the application knows who is connected, and how often")
def known():
    with clients("alice", "bob", "bob"):
        wait_until(lambda: users() == {"alice": 1, "bob": 2}, "the application to hear of three connections")


@case("a message is acknowledged at once and processed in the background")
def processed():
    with clients("alice") as [alice]:
        alice.say({"text": "hello"}, ack_id=1)
        equal(alice.next(), {"type": "ack", "ackId": 1, "success": True})
        alice.expect("alice", "HELLO")


@case("a message to selected clients reaches those and nobody else")
def selected():
    with clients("alice", "bob", "carol") as [alice, bob, carol]:
        alice.say({"text": "for two", "to": ["bob", "carol"]})
        bob.expect("alice", "FOR TWO")
        carol.expect("alice", "FOR TWO")
        alice.say({"text": "for me"})
        alice.expect("alice", "FOR ME")


@case("a message to all reaches everybody")
def broadcast():
    with clients("alice", "bob", "carol") as everybody:
        everybody[1].say({"text": "for all", "to": "all"})
        for client in everybody:
            client.expect("bob", "FOR ALL")


try:
    run()
finally:
    for process in [uvicorn, daemon]:
        process.terminate()
        process.wait(DEADLINE)
