"""Run in the agent's place, inside the agent's sandbox: tries what the agent must do and what it must not, a line each.

It never tries to set the clock: on a machine where the sandbox failed that would be the real one.
"""
import os
import socket
import subprocess


def attempt(what, step):
    try:
        step()
        print(f"{what}: done")
    except OSError as error:
        print(f"{what}: {error.strerror}")


def write(path):
    with open(path, "r+b", buffering=0) as file:
        file.write(file.read())


def run(*command):
    status = subprocess.run(command, stderr=subprocess.DEVNULL).returncode
    if status:
        raise OSError(status, f"status {status}")


def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close()


attempt("the key", lambda: write("/proc/sys/net/ipv4/tcp_fastopen_key"))
attempt("a file in /etc/sysctl.d", lambda: open("/etc/sysctl.d/probe.tmp", "w").close())
attempt("a lock", lambda: open("/run/lock/probe", "w").close())
attempt("runtime directory", lambda: open("/run/tfo-agent/probe", "w").close())
attempt("another sysctl", lambda: write("/proc/sys/net/ipv4/tcp_fin_timeout"))
attempt("tcp_fastopen", lambda: write("/proc/sys/net/ipv4/tcp_fastopen"))
attempt("write /etc", lambda: open("/etc/probe", "w").close())
attempt("write /usr", lambda: open("/usr/bin/probe", "w").close())
attempt("write /var", lambda: open("/var/lib/probe", "w").close())
attempt("read /root", lambda: os.listdir("/root"))
attempt("read /home", lambda: os.listdir("/home"))
attempt("packet socket", packet_socket)
attempt("raw socket", raw_socket)
attempt("device", lambda: os.mknod("/run/tfo-agent/null", 0o020600, os.makedev(1, 3)))
attempt("chown", lambda: os.chown("/run/tfo-agent", 65534, 65534))
attempt("host name", lambda: socket.sethostname("probe"))
attempt("set-uid file", lambda: os.chmod("/run/tfo-agent/probe", 0o4755))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
attempt("network namespace", lambda: run("unshare", "--net", "true"))
attempt("mount", lambda: run("mount", "-t", "tmpfs", "none", "/tmp"))
