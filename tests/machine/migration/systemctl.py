#!/usr/bin/python3
"""What systemd does with the units of a node of these tests: `systemctl enable|disable --now UNIT`, `systemctl reload UNIT`.

A service is started in the background and waited for until it says READY=1; it is ended with SIGTERM and waited for.  Links are made
below .wants as [Install] says.  A timer is only linked: the test is its clock.  The directory of this program has what it remembers.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys

UNITS = "/etc/systemd/system"
HERE = os.path.dirname(os.path.abspath(__file__))

command, *options, unit = sys.argv[1:]
assert options == ([] if command == "reload" else ["--now"]), sys.argv
name = unit if "." in unit else f"{unit}.service"
with open(f"{UNITS}/{name}") as file:
    lines = [line.strip() for line in file]
settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
link = f"{UNITS}/{settings['WantedBy']}.wants/{name}"
pid_file = f"{HERE}/{name}.pid"
# Held by the program as long as it lives; a process id alone does not tell, and /proc is another PID namespace's.
lock_file = f"{HERE}/{name}.lock"


def start():
    address = f"{HERE}/{name}.notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        if os.path.exists(address):
            os.unlink(address)
        notify.bind(address)
        notify.settimeout(20)
        with open(f"{HERE}/{name}.log", "ab") as log, open(lock_file, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            program = settings["ExecStart"].removeprefix("/usr/bin/tfo-agent")
            words = (["tfo-agent"] if program != settings["ExecStart"] else []) + program.split()
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[lock.fileno()],
                env=os.environ | {"NOTIFY_SOCKET": address},
            )
        with open(pid_file, "w") as file:
            file.write(str(child.pid))
        try:
            while b"READY=1" not in notify.recv(4096).split(b"\n"):
                pass
        except TimeoutError:
            sys.exit(f"{name} does not get ready: " + open(f"{HERE}/{name}.log").read())


def send(what):
    with open(pid_file) as file:
        os.kill(int(file.read()), what)


def stop():
    send(signal.SIGTERM)
    with open(lock_file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


if command == "enable":
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.path.lexists(link) or os.symlink(f"../{name}", link)
    if name.endswith(".service"):
        start()
elif command == "disable":
    os.unlink(link)
    if name.endswith(".service"):
        stop()
elif command == "reload":
    # Each in its turn, and the first that fails ends it (systemd.service(5)).
    with open(pid_file) as file:
        main_pid = file.read()
    commands = [line.removeprefix("ExecReload=") for line in lines if line.startswith("ExecReload=")]
    assert commands, f"{name} cannot be reloaded"
    for words in (command.replace("$MAINPID", main_pid).split() for command in commands):
        subprocess.run([os.path.basename(words[0]), *words[1:]], check=True)
else:
    sys.exit(f"no such command here: {command}")
