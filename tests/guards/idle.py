#!/usr/bin/env python3
"""What an idle connection costs the daemon in user space: the growth of its anonymous memory by 10,000 of them.

    tests/guards/idle.py target/release/hubnerite target/release/examples/load

How memory is asked for does not depend on what else the machine does; 10 % is left for how it is laid out.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import daemon  # noqa: E402 (the line above has to come first)

CONNECTIONS = 10_000
MOST_BYTES = {"/echo": 2048 * 1.1, "/ws/user-{id}": 2560 * 1.1}


def bytes_per_connection(binary, load, path):
    port = daemon.free_port()
    process, _ = daemon.start([binary], port)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--quiet", "--duration", "0.5s", "--opening", "32", "--pid", str(process.pid), "--json", str(report)]
        idle = [load, "idle", f"ws://127.0.0.1:{port}{path}", "--connections", str(CONNECTIONS)]
        try:
            subprocess.run([*idle, *options], check=True, timeout=120, stdout=subprocess.DEVNULL)
            return json.loads(report.read_text())["memory"]["bytes_per_connection"]
        finally:
            process.kill()
            process.wait()


def main(binary, load):
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed < CONNECTIONS + 300:
        print(f"skipped - a process may open {allowed} files here, and {CONNECTIONS:,} connections are held")
        return 77
    failed = 0
    for path, most in MOST_BYTES.items():
        count = bytes_per_connection(binary, load, path)
        failed += count > most
        print(f"{'FAILED' if count > most else 'ok'} {path}: {count:,.0f} bytes a connection, {most:,.0f} at most")
    print(f"{len(MOST_BYTES) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
