#!/usr/bin/env python3
"""Counts the daemon's instructions for a message, and compares them with instructions.json: 5 % more is a failure.

    tests/guards/instructions.py DAEMON            # after `cargo build --release`: target/release/hubnerite
    tests/guards/instructions.py DAEMON --renew    # writes the figures of today, for a change that is worth it or better

Instructions do not depend on what else the machine does. Each case runs with as many messages and with twice as many,
and only the difference counts: what start and end cost is in both. A little depends on compiler and processor, whose
libc copies in steps of its own. A daemon that was built together with an example takes more: it has tokio's clock for
tests.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import daemon  # noqa: E402 (the line above has to come first)

FIGURES = Path(__file__).with_name("instructions.json")
TOLERANCE = 1.05
PAYLOAD = "x" * 64


def echo_one_at_a_time(port, client, messages):
    for _ in range(messages):
        client.send(PAYLOAD)
        client.receive()


def echo_32_in_flight(port, client, messages):
    for _ in range(messages // 32):
        client.send(*[PAYLOAD] * 32)
        for _ in range(32):
            client.receive()


def delivery_to_a_group_of_100(port, client, messages):
    members = [daemon.Client(port, f"/ws/member-{number}") for number in range(100)]
    for member in members:
        member.receive()
        member.send('{"type":"joinGroup","group":"all","ackId":1}')
        member.receive()
    publisher = daemon.Client(port, "/ws/publisher")
    publisher.receive()
    for _ in range(messages // len(members)):
        publisher.send(f'{{"type":"sendToGroup","group":"all","dataType":"text","data":"{PAYLOAD}"}}')
        for member in members:
            member.receive()


CASES = {echo_one_at_a_time: 2_000, echo_32_in_flight: 6_400, delivery_to_a_group_of_100: 20_000}


def instructions(binary, case, messages):
    """All instructions of a daemon that serves so many messages."""
    port = daemon.free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "callgrind.log"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", f"--log-file={log}"]
        process, client = daemon.start([*tool, binary, "--threads", "1"], port)
        try:
            case(port, client, messages)
        except BaseException:
            process.kill()
            raise
        daemon.stop(process)
        return int(re.search(r"Collected : (\d+)", log.read_text())[1])


def main(binary, *flags):
    expected = json.loads(FIGURES.read_text())
    figures, failed = {}, 0
    for case, messages in CASES.items():
        name = case.__name__
        more, less = (instructions(binary, case, count) for count in (2 * messages, messages))
        figures[name] = round((more - less) / messages)
        if name not in expected and not flags:
            raise SystemExit(f"{FIGURES} says nothing of {name}: --renew")
        change = figures[name] / expected.get(name, figures[name])
        failed += change > TOLERANCE
        print(f"{'FAILED' if change > TOLERANCE else 'ok'} {name}: {figures[name]:,} instructions a message, {change - 1:+.1%}")
    if flags == ("--renew",):
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
        return 0
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
