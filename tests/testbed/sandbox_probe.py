"""Run in a service's place, inside its unit's sandbox: tries what it must do and what it must not, a line each.

    probe.py agent | coordinator

The clock is in no danger, also where a sandbox fails: a time before 1970 is EINVAL for a process that may set it, and so is that
tick (kernel/time: timespec64_valid_settod, timekeeping_validate_timex), so EPERM tells that it was not even looked at.
"""
import ctypes
import mmap
import os
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUSER = 0x20000, 0x40000000, 0x10000000
ADJ_TICK = 0x4000


def attempt(what, step):
    try:
        step()
        print(f"{what}: done")
    except OSError as error:
        print(f"{what}: {error.strerror}")


def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path):
    with open(path, "r+b", buffering=0) as file:
        file.write(file.read())


def make(path):
    open(path, "w").close()


def execute(program):
    """In a child, because it must not come back if it works."""
    child = os.fork()
    if child == 0:
        try:
            os.execv(program, [program])
        except OSError as error:
            os._exit(error.errno)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, os.strerror(status))


def execute_own(path):
    with open("/bin/true", "rb") as true, open(path, "wb") as own:
        own.write(true.read())
    os.chmod(path, 0o700)
    execute(path)


def connect(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)


def socket_of(*kind):
    socket.socket(*kind).close()


def wrong_tick():
    timex = bytearray(256)
    struct.pack_into("I", timex, 0, ADJ_TICK)
    called(libc.adjtimex((ctypes.c_char * 256).from_buffer(timex)))


def enter(namespace):
    file = os.open(f"/proc/self/ns/{namespace}", os.O_RDONLY)
    called(libc.setns(file, 0))


def writable_code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


service = sys.argv[1]
if service == "agent":
    attempt("the key", lambda: write("/proc/sys/net/ipv4/tcp_fastopen_key"))
    attempt("a file in /etc/sysctl.d", lambda: make("/etc/sysctl.d/probe.tmp"))
    attempt("a file in /run/lock", lambda: make("/run/lock/probe"))
    attempt("own directory", lambda: make("/run/tfo-agent/probe"))
    attempt("its certificate's directory", lambda: make("/var/lib/tfo-agent/probe"))
    own = "/run/tfo-agent"
else:
    attempt("own directory", lambda: make("/var/lib/tfo-coordinator/probe"))
    attempt("the key", lambda: write("/proc/sys/net/ipv4/tcp_fastopen_key"))
    attempt("a file in /etc/sysctl.d", lambda: make("/etc/sysctl.d/probe.tmp"))
    attempt("its key-encryption key's file", lambda: open("/etc/tfo-fleet/kek").close())
    own = "/var/lib/tfo-coordinator"
attempt("another sysctl", lambda: write("/proc/sys/net/ipv4/tcp_fin_timeout"))
attempt("tcp_fastopen", lambda: write("/proc/sys/net/ipv4/tcp_fastopen"))
attempt("write /etc", lambda: make("/etc/probe"))
attempt("write /etc/tfo-fleet", lambda: make("/etc/tfo-fleet/probe"))
attempt("write /usr", lambda: make("/usr/bin/probe"))
attempt("write /usr/lib", lambda: make("/usr/lib/probe"))
attempt("write /var", lambda: make("/var/lib/probe"))
attempt("write /run", lambda: make("/run/probe"))
attempt("a unit file", lambda: make("/run/systemd/system/probe.service"))
attempt("read /root", lambda: os.listdir("/root"))
attempt("read /home", lambda: os.listdir("/home"))
attempt("execute", lambda: execute("/bin/true"))
attempt("execute what it wrote", lambda: execute_own(own + "/true"))
for directory in ["/tmp", "/run/tfo-agent", "/etc/sysctl.d", "/var/lib/tfo-agent"]:
    attempt(f"execute in {directory}", lambda: execute_own(directory + "/true"))
attempt("execute systemctl", lambda: execute("/bin/systemctl"))
attempt("execute beside the libraries", lambda: execute("/usr/lib/tfo-test/true"))
attempt("ask systemd", lambda: connect("/run/systemd/private"))
attempt("ask the bus", lambda: connect("/run/dbus/system_bus_socket"))
attempt("writable code", writable_code)
attempt("packet socket", lambda: socket_of(socket.AF_PACKET, socket.SOCK_RAW))
attempt("raw socket", lambda: socket_of(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
attempt("netlink socket", lambda: socket_of(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("device", lambda: os.mknod(own + "/null", 0o020600, os.makedev(1, 3)))
attempt("chown", lambda: os.chown(own, 65534, 65534))
attempt("host name", lambda: socket.sethostname("probe"))
attempt("set-uid file", lambda: os.chmod(own + "/probe", 0o4755))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
attempt("set the clock", lambda: time.clock_settime(time.CLOCK_REALTIME, -1))
attempt("adjust the clock", wrong_tick)
attempt("new network namespace", lambda: called(libc.unshare(CLONE_NEWNET)))
attempt("new user namespace", lambda: called(libc.unshare(CLONE_NEWUSER)))
attempt("enter a namespace", lambda: enter("net"))
attempt("mount", lambda: called(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
