"""The daemon under systemd, whose part this script plays: it holds the listening socket and is told how things stand.

usage: activation.py PATH-OF-THE-DAEMON
"""

import os
import signal
import socket
import sys
import tempfile

from cases import DEADLINE, case, run

BINARY = sys.argv.pop()


class Service:
    """A daemon that was handed `listener` as systemd hands sockets over: as file 3, with its number in the environment."""

    def __init__(self, listener):
        self.news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(tempfile.mkdtemp(), "notify")
        self.news.bind(path)
        self.news.settimeout(DEADLINE)
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)  # which dup2 leaves undone where the file is number 3 already
            os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET=path)
            os.execv(BINARY, [BINARY, "--log-level", "warn"])

    def expect(self, state):
        told = self.news.recv(4096).decode().split("\n")
        assert state in told, f"{state} expected, told {told}"

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        self.expect("STOPPING=1")
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status


def ask(listener):
    """Sends a request that is answered as soon as somebody listens."""
    client = socket.create_connection(listener.getsockname(), DEADLINE)
    client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client


def expect_ok(client):
    answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok\n"), answer


@case("a restart under socket activation refuses no connection, and systemd is told of each step")
def restart():
    listener = socket.create_server(("127.0.0.1", 0))
    waiting = ask(listener)
    first = Service(listener)
    first.expect("READY=1")
    expect_ok(waiting)
    os.kill(first.pid, signal.SIGHUP)
    first.expect("RELOADING=1")
    first.expect("READY=1")
    first.stop()
    waiting = [ask(listener) for _ in range(20)]
    second = Service(listener)
    second.expect("READY=1")
    for client in waiting:
        expect_ok(client)
    second.stop()


run()
