"""The servers that are compared, and how each comes here: from its registry, into target/compare."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Peer:
    """A server that can be started; PORT in `command` is filled in."""

    name: str
    title: str
    command: list
    preset: str = "paths"
    version: str = ""
    echoes: bool = True
    publishes: bool = True
    idle_path: str = "/echo"
    echo_path: str = "/echo"
    # Where messages are posted to, if it takes any.
    post: str = ""
    environment: dict = field(default_factory=dict)

    def takes(self, mode):
        """Whether it can be measured in this mode."""
        if mode.startswith("publish"):
            return bool(self.post)
        if mode.startswith("fanout"):
            return self.publishes
        return self.echoes or not mode.startswith(("echo", "rate", "churn"))


def say(*command, **options):
    """What a command prints; its last line is the error if it fails."""
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if run.returncode != 0:
        lines = (run.stderr.strip() or run.stdout.strip() or f"exit code {run.returncode}").splitlines()
        raise RuntimeError(f"{Path(str(command[0])).name}: {lines[-1]}")
    return run.stdout.strip()


def hubnerite(here, work, name="hubnerite"):
    help_text = say(work / name, "--help")
    command, post = [str(work / name), "--listen", "127.0.0.1:PORT"], ""
    if "--control " in help_text:
        command += ["--control", "127.0.0.1:1PORT"]
        post = "http://127.0.0.1:1PORT/api/hubs/default/groups/load/:send"
    return Peer(name, name, command, preset="hubnerite", version=say(work / name, "--version").split()[-1], post=post)


def bare(here, work):
    say("cc", "-O3", "-o", work / "bare", here / "peers/bare.c")
    return Peer("bare", "bare epoll and send() in C, no checks (the limit)", [str(work / "bare"), "PORT"])


def cargo(here, work):
    """Builds the Rust peers."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(work / "peers")}
    say("cargo", "build", "--release", "--locked", cwd=here / "peers", env=environment)
    listing = say("cargo", "tree", "--depth", "1", "--prefix", "none", cwd=here / "peers", env=environment)
    return {words[0]: words[1].lstrip("v") for words in map(str.split, listing.splitlines()) if len(words) > 1}


def tokio_task(here, work):
    version = cargo(here, work)["tokio"]
    return Peer("tokio", "the bare loop once more, on tokio, a task each (Rust)", [str(work / "peers/release/tokio_task"), "PORT"], version=version)


def tungstenite_least(here, work):
    version = cargo(here, work)["tokio-tungstenite"]
    command = [str(work / "peers/release/tungstenite_least"), "PORT"]
    return Peer("tungstenite-least", "what tungstenite costs at least, on tokio (Rust)", command, version=version, publishes=False)


def tungstenite(here, work):
    version = cargo(here, work)["tokio-tungstenite"]
    return Peer("tungstenite", "tokio-tungstenite as its examples do it (Rust)", [str(work / "peers/release/tungstenite"), "PORT"], version=version)


def fastwebsockets(here, work):
    version = cargo(here, work)["fastwebsockets"]
    return Peer("fastwebsockets", "fastwebsockets on hyper (Rust)", [str(work / "peers/release/fastwebsockets"), "PORT"], version=version)


def uwebsockets(here, work):
    """Built as its own build does it, from the source that a package of bindings brings along."""
    metadata = say("cargo", "metadata", "--locked", "--all-features", "--format-version", "1", cwd=here / "peers")
    package = next(package for package in json.loads(metadata)["packages"] if package["name"] == "libuwebsockets-sys")
    source = Path(package["manifest_path"]).parent / "uWebSockets"
    sockets, folder = source / "uSockets/src", work / "uwebsockets"
    folder.mkdir(exist_ok=True)
    flags = ["-O3", "-march=native", "-flto=auto", "-DLIBUS_NO_SSL", "-DUWS_NO_ZLIB", f"-I{sockets}", f"-I{source / 'src'}"]
    say("cc", "-std=c11", *flags, "-c", *sockets.glob("*.c"), sockets / "eventing/epoll_kqueue.c", cwd=folder)
    say("c++", "-std=c++20", *flags, "-o", "uwebsockets", here / "peers/uwebsockets.cpp", *folder.glob("*.o"), cwd=folder)
    return Peer("uwebsockets", "uWebSockets (C++)", [str(folder / "uwebsockets"), "PORT"], version=f"of libuwebsockets-sys {package['version']}")


def ws(here, work):
    folder = work / "node"
    folder.mkdir(exist_ok=True)
    say("npm", "install", "--no-audit", "--no-fund", "--prefix", folder, "ws@8", cwd=folder)
    version = say("node", "-p", "require('ws/package.json').version", cwd=folder)
    node = say("node", "--version")
    return Peer("ws", "ws (Node)", ["node", str(here / "peers/ws.js"), "PORT"], version=f"{version} on Node {node}",
                environment={"NODE_PATH": str(folder / "node_modules")})


def python(here, work):
    """A virtual environment with both Python peers; their versions."""
    folder = work / "python"
    if not (folder / "bin/pip").exists():
        say(sys.executable, "-m", "venv", folder)
    say(folder / "bin/pip", "install", "--quiet", "-r", here / "peers/requirements.txt")
    lines = say(folder / "bin/pip", "list", "--format", "freeze").splitlines()
    return folder, dict(line.split("==") for line in lines if "==" in line)


def websockets(here, work):
    folder, versions = python(here, work)
    return Peer("websockets", "websockets on uvloop (Python)", [str(folder / "bin/python"), str(here / "peers/websockets_server.py"), "PORT"],
                version=versions["websockets"])


def fastapi(here, work):
    folder, versions = python(here, work)
    command = [str(folder / "bin/uvicorn"), "--app-dir", str(here / "peers"), "fastapi_server:app", "--host", "127.0.0.1", "--port", "PORT",
               "--loop", "uvloop", "--http", "httptools", "--ws", "websockets", "--no-access-log", "--log-level", "warning", "--backlog", "4096"]
    return Peer("fastapi", "FastAPI on uvicorn, uvloop, websockets (Python)", command,
                version=f"{versions['fastapi']}, uvicorn {versions['uvicorn']}", environment={"PYTHONDONTWRITEBYTECODE": "1"})


def nchan(here, work):
    """nginx and its module from Debian's packages, unpacked here instead of installed: no service is started by it."""
    folder = work / "nginx"
    folder.mkdir(exist_ok=True)
    module = folder / "usr/lib/nginx/modules/ngx_nchan_module.so"
    if not ((folder / "usr/sbin/nginx").exists() and module.exists()):
        if not shutil.which("apt-get"):
            raise RuntimeError("apt-get is not here, and nchan comes from Debian's packages")
        say("apt-get", "download", "nginx", "libnginx-mod-nchan", cwd=folder)
        for package in folder.glob("*.deb"):
            say("dpkg-deb", "--extract", package, folder)
    # The module makes this directory whatever the configuration says: a relative path, as long, lies in this folder.
    module.write_bytes(module.read_bytes().replace(b"/var/lib/nginx/body", b"nchan-requests-body"))
    text = (here / "peers/nchan.conf").read_text()
    configuration = folder / "nchan.conf"
    configuration.write_text(text.replace("MODULE", str(module)).replace("FOLDER", str(folder)))
    # nginx takes its port from the file only: the server's shell line fills it in.
    start = f"sed s/@LISTEN@/PORT/ {configuration} > {configuration}.run && exec {folder}/usr/sbin/nginx -e stderr -p {folder} -c {configuration}.run"
    version = next(folder.glob("libnginx-mod-nchan_*.deb")).name.split("_")[1].replace("%3a", ":")
    return Peer("nchan", "nchan on nginx, one worker (C)", ["sh", "-c", start], preset="nchan", version=version, echoes=False,
                idle_path="/sub/load", echo_path="/echo/{id}", post="http://127.0.0.1:PORT/post/load")


INSTALLERS = {
    "bare": bare,
    "tokio": tokio_task,
    "tungstenite-least": tungstenite_least,
    "hubnerite": hubnerite,
    "uwebsockets": uwebsockets,
    "tungstenite": tungstenite,
    "fastwebsockets": fastwebsockets,
    "nchan": nchan,
    "ws": ws,
    "websockets": websockets,
    "fastapi": fastapi,
}


def install(here, work, only, against=None):
    """The peers that are to be had, and by name why the others are not."""
    found, missing = [], {}
    for name in only or INSTALLERS:
        print(f"installing {name}", file=sys.stderr)
        try:
            if name not in INSTALLERS:
                raise RuntimeError("unknown; known are " + ", ".join(INSTALLERS))
            found.append(INSTALLERS[name](here, work))
        except (RuntimeError, OSError, KeyError, StopIteration) as error:
            missing[name] = f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeError) else str(error)
    if against:
        shutil.copy2(against, work / "hubnerite-before")
        found.append(hubnerite(here, work, "hubnerite-before"))
    return found, missing
