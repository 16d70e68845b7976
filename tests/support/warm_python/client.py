"""Asks the server for a fork of itself, and lives as long as that does."""

# pathlib takes longer to import than all the rest.
# ruff: noqa: PTH100, PTH110, PTH120

import array
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

PLACE = os.path.dirname(os.path.abspath(sys.argv[0]))
ADDRESS = f"{PLACE}/socket"
words = sys.argv[1:]
with open(f"{PLACE}/settings.json") as file:
    settings = json.load(file)


def start_server() -> None:
    """Start it, unless another client has done so, and wait until it listens."""
    with open(f"{PLACE}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(ADDRESS):
            return
        with open(f"{PLACE}/server.log", "w") as log:
            server = subprocess.Popen(
                [settings["python"], "-m", "tests.support.warm_python.server", PLACE],
                cwd=settings["root"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with open(f"{PLACE}/server.pid", "w") as file:
            file.write(str(server.pid))
        while not os.path.exists(ADDRESS):
            if server.poll() is not None:
                sys.exit(f"the server has died, see {PLACE}/server.log")
            time.sleep(0.05)


unbuffered = words[:1] == ["-u"]
if unbuffered:
    del words[0]
known = bool(words) and (words[0] in ("-m", "-") or not words[0].startswith("-"))
same = settings["same"] == {name: os.environ.get(name) for name in settings["same"]}
same &= {*settings["path"]} == {*os.environ.get("PYTHONPATH", "").split(":")} - {""}
if not same or not known:
    os.execv(settings["python"], [settings["python"], *sys.argv[1:]])
if not os.path.exists(ADDRESS):
    start_server()

server = socket.socket(socket.AF_UNIX)
server.connect(ADDRESS)
unbuffered |= bool(os.environ.get("PYTHONUNBUFFERED"))
job = [words, os.getcwd(), dict(os.environ), os.getpgrp(), unbuffered]
with server.makefile("rwb") as stream:
    streams = array.array("i", [0, 1, 2])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
    server.sendmsg([b"\n"], rights)
    stream.write(json.dumps(job).encode() + b"\n")
    stream.flush()
    child = int(stream.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(child, number))
    status = int(stream.readline() or -signal.SIGKILL)
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.stdout.flush()
os._exit(status)
