"""Proves that check.py can fail: feeds it reports with one thing wrong each."""

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHECK = Path(__file__).with_name("check.py")
EXPECTED = {"count": 3, "worse": {"NON-STRICT": ["6.4."]}, "empty close": ["7.3.1"]}


def report(code, named, behavior="OK"):
    return {
        "behavior": behavior, "result": "", "behaviorClose": "OK", "resultClose": "", "remoteCloseCode": code,
        "expectedClose": {"closeCode": named}, "rxFrameStats": {"1": 1, "8": 1},
    }


GOOD = {
    "1.1.1": report(1000, [1000]),
    "6.4.3": report(1007, [1007], "NON-STRICT"),
    "7.3.1": report(None, [1000]),
}


def check(reports):
    """Runs check.py as tests/all does; returns its exit code and its last line."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        index = {case: {"reportfile": f"{case}.json"} for case in reports}
        for case, content in reports.items():
            (folder / f"{case}.json").write_text(json.dumps(content))
        (folder / "index.json").write_text(json.dumps({"agent": index}))
        (folder / "expected.json").write_text(json.dumps(EXPECTED))
        run = subprocess.run(
            [sys.executable, CHECK, folder / "index.json", folder / "expected.json"], capture_output=True, text=True
        )
    return run.returncode, run.stdout.splitlines()[-1] if run.stdout else run.stderr


def change(case, **fields):
    def doctor(reports):
        reports[case].update(fields)

    return doctor


CASES = [
    ("a good report passes", lambda reports: None, (0, "3 passed, 0 failed")),
    ("a missing case fails", lambda reports: reports.pop("1.1.1"), (1, "2 passed, 1 failed")),
    ("a new case fails", lambda reports: reports.update({"1.1.2": report(1000, [1000])}), (1, "4 passed, 1 failed")),
    ("a failed case fails", change("1.1.1", behavior="FAILED"), (1, "2 passed, 1 failed")),
    ("a case worse than expected fails", change("1.1.1", behavior="NON-STRICT"), (1, "2 passed, 1 failed")),
    ("a case worse than its exception fails", change("6.4.3", behavior="UNIMPLEMENTED"), (1, "2 passed, 1 failed")),
    ("a case better than its exception passes", change("6.4.3", behavior="OK"), (0, "3 passed, 0 failed")),
    ("an unknown verdict fails", change("1.1.1", behavior="FINE"), (1, "2 passed, 1 failed")),
    ("an unclean close fails", change("1.1.1", behaviorClose="UNCLEAN"), (1, "2 passed, 1 failed")),
    ("a wrong close code fails", change("6.4.3", remoteCloseCode=1002), (1, "2 passed, 1 failed")),
    ("a close frame without a code fails", change("1.1.1", remoteCloseCode=None), (1, "2 passed, 1 failed")),
    ("a dropped connection fails", change("6.4.3", remoteCloseCode=None, rxFrameStats={"1": 1}), (1, "2 passed, 1 failed")),
    ("an exception for an empty close still wants a close frame", change("7.3.1", rxFrameStats={}), (1, "2 passed, 1 failed")),
]

failed = 0
for name, doctor, wanted in CASES:
    reports = copy.deepcopy(GOOD)
    doctor(reports)
    got = check(reports)
    failed += got != wanted
    print(f"ok - {name}" if got == wanted else f"not ok - {name}: got {got}, wanted {wanted}")
print(f"{len(CASES) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
