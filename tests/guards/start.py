#!/usr/bin/env python3
"""How large the daemon is, and how soon it serves: from its start to the 101 of its first connection.

    tests/guards/start.py target/release/hubnerite

Other work on the machine only ever makes a start slower, so the fastest quarter of the starts is judged.
"""

import statistics
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
import daemon  # noqa: E402 (the line above has to come first)

STARTS = 21
MOST_MILLISECONDS = 20
MOST_BYTES = 6 << 20


def milliseconds_to_the_first_connection(binary):
    port = daemon.free_port()
    began = time.perf_counter()
    process, _ = daemon.start([binary], port)
    took = time.perf_counter() - began
    daemon.stop(process)
    return took * 1000


def main(binary):
    times = [milliseconds_to_the_first_connection(binary) for _ in range(STARTS)]
    quarter, median, _ = statistics.quantiles(times, n=4)
    size = Path(binary).stat().st_size
    print(f"served {median:.1f} ms after its start (median of {STARTS}; a quarter within {quarter:.1f} ms)")
    print(f"{size / (1 << 20):.1f} MiB")
    failures = [
        *(["it starts too slowly"] if quarter > MOST_MILLISECONDS else []),
        *(["the binary is too large"] if size > MOST_BYTES else []),
    ]
    print("\n".join(f"FAILED: {failure}" for failure in failures))
    print(f"{2 - len(failures)} passed, {len(failures)} failed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
