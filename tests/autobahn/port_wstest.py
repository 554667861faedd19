"""Ports autobahntestsuite 25.10.1, which is Python 2 only, to Python 3.8 - 3.12, in place.

usage: port_wstest.py SITE_PACKAGES/autobahntestsuite

Rule of the port: every Python 2 byte string becomes a Python 3 str that holds one character per octet (latin-1). It is
turned into bytes on its way into autobahn and back into such a str on its way out, so that the cases stay as they are.
Verdicts and close codes of the port equal those of the original in all 517 cases.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(sys.argv[1])

# WAMP and the servers: nothing that the fuzzing client and the mass connect need.
NOT_NEEDED = [
    "broadcast.py", "choosereactor.py", "echo.py", "interfaces.py", "report.pyc", "rinterfaces.py", "serializer.py",
    "testdb.py", "testee.py", "testrun.py", "util.py", "wampcase", "wampfuzzing.py", "wamptestee.py",
    "wamptestserver.py", "wsperfcontrol.py", "wsperfmaster.py",
]

PY3 = '''import binascii
def b(x):
    return x.encode("latin-1") if isinstance(x, str) else x
def s(x):
    return bytes(x).decode("latin-1") if isinstance(x, (bytes, bytearray, memoryview)) else x
def b2a_hex(x):
    return binascii.b2a_hex(b(x)).decode("ascii")
hexlify = b2a_hex
'''

# The methods through which the cases talk to autobahn.
BOUNDARY = '''   def sendFrame(self, opcode, payload = b(''), fin = True, rsv = 0, mask = None, payload_len = None, chopsize = None, sync = False):
      payload = b(payload)
      if payload_len is not None:     # autobahn 0.10.9 divides with / here
         payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
      super().sendFrame(opcode, payload, fin, rsv, b(mask), None, chopsize, sync)

   def sendMessage(self, payload, *a, **k):
      super().sendMessage(b(payload), *a, **k)

   def sendMessageFrameData(self, payload, sync = False):
      return super().sendMessageFrameData(b(payload), sync)

   def sendCloseFrame(self, code = None, reasonUtf8 = None, isReply = False):
      super().sendCloseFrame(code, b(reasonUtf8), isReply)

   def onMessage(self, msg, binary):
      msg = s(msg)
'''

# The command line: the original's also starts the parts that are gone.
WSTEST = '''import argparse, json, sys
from twisted.internet import reactor
from twisted.python import log
def connect_masses(spec):
    from . import massconnect
    done = massconnect.startClient(spec)
    done.addErrback(log.err)
    done.addBoth(lambda _: reactor.stop())
def fuzz(spec, debug):
    from . import fuzzing
    fuzzing.startClient(spec, debug)
def run():
    a = argparse.ArgumentParser(prog="wstest")
    a.add_argument("-m", "--mode", choices=["fuzzingclient", "massconnect"], required=True)
    a.add_argument("-s", "--spec")
    a.add_argument("-d", "--debug", action="store_true")
    o = a.parse_args()
    # errors inside Twisted callbacks must not pass silently
    errors = []
    def observe(e):
        if e.get("isError"):
            errors.append(e)
            print(log.textFromEventDict(e), file=sys.stderr)
    log.startLoggingWithObserver(observe, setStdout=False)
    spec = json.load(open(o.spec or o.mode + ".json"))
    if o.mode == "massconnect":
        connect_masses(spec)
    else:
        fuzz(spec, o.debug)
    reactor.run()
    sys.exit(1 if errors else 0)
'''


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def write(name, text):
    (ROOT / name).write_text(text, encoding="utf-8", newline="\n")


def edit(name, *replacements):
    """Replaces text that has to be there: a pattern that is not found would leave a hole in the port."""
    text = read(name)
    for old, new in replacements:
        if old not in text:
            sys.exit(f"{name}: not found: {old!r}")
        text = text.replace(old, new)
    write(name, text)


def remove_what_is_not_needed():
    for path in (ROOT / name for name in NOT_NEEDED):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def port_syntax():
    """Octets of the source become latin-1 characters; then lib2to3 does what it can."""
    for path in ROOT.rglob("*.py"):
        text = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
        write(path.relative_to(ROOT), re.sub(r"(?m)^#.*coding[:=].*$", "#", text))
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "lib2to3", "-w", "-n", "--no-diffs", str(ROOT)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )


def port_cases():
    for path in (ROOT / "case").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("(object, Case, )", "(Case, )")
        text = text.replace("import binascii", "from .. import py3 as binascii")
        text = text.replace("hashlib, binascii", "hashlib\nfrom .. import py3 as binascii")
        write(path.relative_to(ROOT), text)
    edit("case/case.py", ("pickle.dumps(obj1) == pickle.dumps(obj2)", "obj1 == obj2"))
    edit("case/case10_1_1.py", ("len(self.payload) / self", "len(self.payload) // self"))
    edit("case/case6_x_x.py", ("validate(vss[:i])", "validate(binascii.b(vss[:i]))"))
    edit("case/case9_9_1.py",
         ("from zope.interface import implements\n", ""), ("   implements(interfaces.IPushProducer)\n", ""))
    edit("case/case12_x_x.py",
         ("m.update(msg)", "m.update(binascii.b(msg))"),
         ("msg = msg.decode('utf-8')", "msg = binascii.b(msg).decode('utf-8')"))


def port_fuzzing():
    """The boundary to autobahn, and the reports."""
    edit("fuzzing.py",
         ("import os, json, binascii, time",
          "from . import py3 as binascii\nfrom .py3 import b, s\nimport os, json, time"),
         ("def asciiLogData(data, maxlen = 64, replace = False):\n",
          "def asciiLogData(data, maxlen = 64, replace = False):\n   data = b(data)\n"),
         ('   ellipses = " ..."\n   try:', '   ellipses = b(" ...")\n   try:'),
         ("p = ''.join(payload)", "p = b('').join(payload)"),
         (".encode(\"utf-8\"))\n      f.write('      </table>')", ")\n      f.write('      </table>')"),
         ("ll.encode('utf8')", "ll"),
         ("open(os.path.join(outdir, report_filename), 'w')",
          "open(os.path.join(outdir, report_filename), 'w', encoding = 'utf-8', errors = 'surrogateescape')"),
         ("json.dumps(case, sort_keys", "json.dumps(case, default = s, sort_keys"),
         # The reactor stops after the reports even when writing them fails.
         ("self.createReports()\n            reactor.stop()",
          "reactor.callLater(0, reactor.stop)\n            self.createReports()"),
         ("         self.createReports()\n         reactor.stop()",
          "         reactor.callLater(0, reactor.stop)\n         self.createReports()"),
         ("   def onPong(self, payload):\n", "   def onPong(self, payload):\n      payload = s(payload)\n"),
         ("   def onMessage(self, msg, binary):\n", BOUNDARY))


def port_mass_connect():
    """It closes all connections but the last, and then waits for ever: here it closes them all, and ends with them."""
    connected, kept = "      self.factory.test.onConnected()\n", "      self.factory.test.protos.append(self)\n"
    edit("massconnect.py",
         (connected + kept, kept + connected),
         ("time.clock()", "time.perf_counter()"),
         ("      self.lost += 1\n",
          "      self.lost += 1\n      if self.lost == self.actual == self.targetCnt:\n         self.d.callback(None)\n"))


def port_the_rest():
    # The style sheet of the reports; what stands below it is for WAMP and wants jinja2.
    write("report.py", read("report.py").split("from zope.interface")[0].replace("import jinja2\n", ""))
    write("__init__.py", "from ._version import __version__\nversion = __version__\n")
    write("wstest.py", WSTEST)


remove_what_is_not_needed()
port_syntax()
write("py3.py", PY3)
port_cases()
port_fuzzing()
port_mass_connect()
port_the_rest()
