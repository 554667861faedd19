"""Runs the cases of a test script in order and prints what tests/all counts.

One line a case, `ok - NAME` or `not ok - NAME: why`, then `N passed, N failed`. The traceback of a failed case
goes to standard error.
"""

import faulthandler
import sys
import time
import traceback

# How long a case waits for anything that has to come. Generous, because it is only ever used up by a failure.
DEADLINE = 10.0

# A script that hangs all the same says where, and fails.
WHOLE_SCRIPT = 300

_cases = []


def case(name):
    """Registers the function below it as a case; the name is the statement that it proves."""

    def register(function):
        _cases.append((name, function))
        return function

    return register


def equal(got, wanted):
    assert got == wanted, f"got {_short(got)}, wanted {_short(wanted)}"


def wait_until(condition, what):
    """For the clients that tell of an event only by a callback: asks until it is so, or until the deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE:g} s for {what}"
        time.sleep(0.002)


def run():
    """Runs the cases whose names contain argv[2], or all, and ends the process."""
    faulthandler.dump_traceback_later(WHOLE_SCRIPT, exit=True)
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    passed = failed = 0
    for name, function in _cases:
        if wanted not in name:
            continue
        try:
            function()
            passed += 1
            print(f"ok - {name}", flush=True)
        except Exception as error:
            failed += 1
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"not ok - {name}: {why}", flush=True)
            traceback.print_exc()
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


def _short(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]}... ({len(text)} characters)"
