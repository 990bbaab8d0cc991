#!/usr/bin/python3
"""What systemd does with the units of a node of these tests: `systemctl enable|disable --now UNIT`.

A service is started in the background and waited for until it says READY=1; it is ended with SIGTERM and waited for.  Links are made
below .wants as [Install] says.  A timer is only linked: the test is its clock.  The directory of this program has what it remembers.
"""

import os
import signal
import socket
import subprocess
import sys
import time

UNITS = "/etc/systemd/system"
HERE = os.path.dirname(os.path.abspath(__file__))

command, now, unit = sys.argv[1:]
assert now == "--now", sys.argv
name = unit if "." in unit else f"{unit}.service"
with open(f"{UNITS}/{name}") as file:
    lines = [line.strip() for line in file]
settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
link = f"{UNITS}/{settings['WantedBy']}.wants/{name}"
pid_file = f"{HERE}/{name}.pid"


def gone(pid):
    """Ended, though init may not have noticed yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def start():
    address = f"{HERE}/{name}.notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        if os.path.exists(address):
            os.unlink(address)
        notify.bind(address)
        notify.settimeout(20)
        with open(f"{HERE}/{name}.log", "ab") as log:
            program = settings["ExecStart"].removeprefix("/usr/bin/tfo-agent")
            words = (["tfo-agent"] if program != settings["ExecStart"] else []) + program.split()
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"NOTIFY_SOCKET": address},
            )
        with open(pid_file, "w") as file:
            file.write(str(child.pid))
        try:
            while b"READY=1" not in notify.recv(4096).split(b"\n"):
                pass
        except TimeoutError:
            sys.exit(f"{name} does not get ready: " + open(f"{HERE}/{name}.log").read())


def stop():
    with open(pid_file) as file:
        pid = int(file.read())
    os.kill(pid, signal.SIGTERM)
    while not gone(pid):
        time.sleep(0.01)


if command == "enable":
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.path.lexists(link) or os.symlink(f"../{name}", link)
    if name.endswith(".service"):
        start()
elif command == "disable":
    os.unlink(link)
    if name.endswith(".service"):
        stop()
else:
    sys.exit(f"no such command here: {command}")
