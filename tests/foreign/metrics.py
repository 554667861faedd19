"""`promtool check metrics` on what the daemon shows: usage: metrics.py CONNECTION PROMTOOL"""

import json
import pathlib
import re
import subprocess
import sys
import urllib.request

connection, promtool = sys.argv[1:]
endpoint = re.search("Endpoint=([^;]+);", connection)[1]
page = urllib.request.urlopen(f"{endpoint}/metrics", timeout=10).read().decode()
checked = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True)
print(checked.stdout + checked.stderr)
assert checked.returncode == 0 and not checked.stderr.strip(), "promtool has something to say"

# The dashboard asks for nothing that is not there.
dashboard = json.loads(pathlib.Path("examples/grafana.json").read_text())
asked = {target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
names = {name for expression in asked for name in re.findall(r"\b((?:hubnerite|process)_\w+)", expression)}
families = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
missing = {name for name in names if name not in families and name.removesuffix("_bucket") not in families}
assert names and not missing, f"the dashboard asks for {missing}"
print(f"{len(families)} metrics, {len(names)} of them in the dashboard")
print("2 passed, 0 failed")
