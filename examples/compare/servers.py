"""Servers that are measured: built, started on a core of their own, and stopped."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "compare"


# As many files as may be, for the servers that are started here too: not all of them ask for it.
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def seconds(text):
    """A duration as it is given: 2s, or 2."""
    return float(text.removesuffix("s"))


def build(options):
    """Builds hubnerite and the load generator where no binaries are given."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    if not options.hubnerite or not options.load:
        # One by one: built together, the daemon would get the tokio that examples and tests ask for, with a slower clock.
        for what in ("--bin=hubnerite", "--example=load"):
            subprocess.run(["cargo", "build", "--release", what], cwd=ROOT, check=True)
    # A copy: a build during the comparison must not change what is compared.
    for name, source in {"hubnerite": options.hubnerite or target / "hubnerite", "load": options.load or target / "examples/load"}.items():
        copy = WORK / name
        if not (copy.exists() and copy.samefile(source)):
            shutil.copy2(source, copy)


class Server:
    """A peer's process."""

    def __init__(self, peer, port, core):
        self.peer, self.port, self.core, self.process = peer, port, core, None

    def start(self):
        try:  # somebody else who listens there would be measured in its stead
            socket.create_server(("127.0.0.1", self.port)).close()
        except OSError as error:
            raise RuntimeError(f"port {self.port}: {error.strerror}") from None
        self.log = WORK / f"{self.peer.name}.log"
        command = ["taskset", "-c", str(self.core), *(part.replace("PORT", str(self.port)) for part in self.peer.command)]
        environment = {**os.environ, **self.peer.environment}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=WORK, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(200):
            time.sleep(0.05)
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                continue
        tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        self.stop()
        raise RuntimeError(f"does not start: {' '.join(tail) or 'no word of it'}")

    def stop(self):
        if self.process is None:
            return
        # Its whole session, which holds nothing but this server and its workers.
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(3)
                break
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.process = None


def load(options):
    """The load generator, on its core."""
    return ["taskset", "-c", str(options.load_core), str(WORK / "load")]


def measure(server, options, *words, duration):
    """What one run of the load generator has measured."""
    out = ["--pid", str(server.process.pid), "--json", str(WORK / "last.json"), "--quiet", "--duration", f"{duration}s"]
    subprocess.run([*load(options), *words, *out], stdout=subprocess.DEVNULL, check=True, timeout=300)
    return json.loads((WORK / "last.json").read_text())


def metrics(server):
    """What a hubnerite says of itself: its metrics by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:1{server.port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}
