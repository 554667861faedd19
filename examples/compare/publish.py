"""Publishes by HTTP at a fixed rate, while a thousand other clients echo.

What the echo costs the server is measured alone first, right before, and taken off: both as CPU time a second.
"""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import time

SUBSCRIBERS = 100

# Beside the publishes: each of these clients sends a message a second and gets it back.
ECHO = ["--connections", "1000", "--rate", "1000", "--size", "64"]

# What hubnerite delivers for a publish; others get this as the body, so that all write equally much.
DELIVERY = '{"type":"message","from":"group","group":"load","dataType":"text","data":"{payload}"}'

# How much longer the echo lasts than what is measured beside it, in seconds.
LONGER = 5


def token(key, url):
    """What a backend signs its call with: an HS256 JWT whose audience is the URL."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"aud": url, "exp": int(time.time()) + 3600}
    text = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (text + b"." + part(hmac.digest(key.encode(), text, hashlib.sha256))).decode()


def request(server):
    """The flags that say what is posted where."""
    url = server.peer.post.replace("PORT", str(server.port))
    words = ["--post", url, "--post-header", "Content-Type: text/plain"]
    if server.peer.preset != "hubnerite":
        return [*words, "--body", DELIVERY]
    key = re.search(r"AccessKey=([^;]+);", server.log.read_text()).group(1)
    return [*words, "--post-header", f"Authorization: Bearer {token(key, url)}"]


def echo(server, load, work, duration):
    """The echo under way, from the moment on at which it is counted."""
    url = f"ws://127.0.0.1:{server.port}{server.peer.echo_path}"
    flags = ["--pid", str(server.process.pid), "--duration", f"{duration}s", "--warm-up", "0.5s"]
    command = [*load, "rate", url, *ECHO, *flags, "--json", str(work / "echo.json")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("measuring"):
            return process
    raise RuntimeError(f"the echo beside: exit code {process.wait()}")


def finish(process, work):
    """What the echo came to."""
    try:
        last = process.communicate(timeout=60)[1].strip().splitlines()[-1:]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"the echo beside: {' '.join(last)}")
    return json.loads((work / "echo.json").read_text())


def measure(rate, server, load, work, seconds):
    """One figure set: CPU time for each publish with its deliveries, without the echo's."""
    alone = finish(echo(server, load, work, max(seconds, 2)), work)
    url, flags = f"ws://127.0.0.1:{server.port}", ["--subscribers", str(SUBSCRIBERS), "--rate", str(rate), "--preset", server.peer.preset]
    out = ["--json", str(work / "last.json"), "--pid", str(server.process.pid), "--quiet", "--duration", f"{seconds}s", "--warm-up", "0.5s"]
    beside = echo(server, load, work, seconds + LONGER)
    try:
        run = subprocess.run([*load, "publish", url, *flags, *request(server), *out], capture_output=True, text=True, timeout=180)
    finally:
        during = finish(beside, work)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit code {run.returncode}")
    figure = json.loads((work / "last.json").read_text())
    cores = figure["server_cores"] - alone["server_cores"]
    return {
        **figure,
        "server_cpu_us": cores * 1e6 / figure["publishes_per_second"],
        "echo_cores": alone["server_cores"],
        "echo_latency_us": during["latency_us"],
    }
