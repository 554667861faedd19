"""Compares a report of Autobahn's fuzzing client with what is expected of the daemon.

usage: check.py REPORTS/index.json EXPECTED.json

A case fails when its verdict is worse than expected, when no close frame came, or when its code is none of those that
the suite names for the case (the suite itself lets a dropped TCP connection pass in a hundred cases). A missing case
and a new one fail too.
"""

import json
import sys
from pathlib import Path

RANK = {
    "OK": 0, "INFORMATIONAL": 0, "NON-STRICT": 1, "UNIMPLEMENTED": 2,
    "UNCLEAN": 3, "WRONG CODE": 3, "FAILED BY CLIENT": 3, "FAILED": 4,
}
UNKNOWN = 9
CLOSE_OPCODE = "8"


def allowed(case, expected):
    """The rank of the worst verdict that the expectations grant: `6.4.3` names a case, `12.` a group."""
    for verdict, cases in expected["worse"].items():
        if any(case == name or (name.endswith(".") and case.startswith(name)) for name in cases):
            return RANK[verdict]
    return 0


def faults(case, report, expected):
    """What is wrong with a case, as sentences."""
    if RANK.get(report["behavior"], UNKNOWN) > allowed(case, expected):
        yield f"{report['behavior']}: {report['result']}"
    if RANK.get(report["behaviorClose"], UNKNOWN) > 0:
        yield f"close {report['behaviorClose']}: {report['resultClose']}"
    named, code = report["expectedClose"].get("closeCode"), report["remoteCloseCode"]
    if CLOSE_OPCODE not in report["rxFrameStats"]:
        yield "no close frame came"
    elif named and code not in named and not (code is None and case in expected["empty close"]):
        yield f"the close frame's code is {code}, the suite names {named}"


def main():
    index, expected = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    (cases,) = json.loads(index.read_text()).values()  # exactly one agent
    failed = 0
    if len(cases) != expected["count"]:
        failed = max(1, expected["count"] - len(cases))
        print(f"not ok - {len(cases)} cases were run, expected {expected['count']}")
    passed = 0
    for case, summary in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        report = json.loads((index.parent / summary["reportfile"]).read_text())
        wrong = list(faults(case, report, expected))
        if wrong:
            failed += 1
            print(f"not ok - {case}: {'; '.join(wrong)} (see {summary['reportfile']})")
        else:
            passed += 1
            if RANK[report["behavior"]] < allowed(case, expected):
                print(f"# {case} is better than expected: {report['behavior']}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
