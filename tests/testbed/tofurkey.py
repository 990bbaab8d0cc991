"""A node of tofurkey, played by its published algorithm (README of tofurkey 1.3: "Operational details about timing") with
hashlib's BLAKE2b, and no code of this project.

tofurkey.py -k SECRET -i SECONDS: at the start, and 2.02 s after every half of an interval, the secret is read again, both keys are
derived and written to the kernel with one write.  READY=1 after the first, as its unit expects.
"""

import hashlib
import os
import socket
import struct
import sys
import time

KEY_FILE = "/proc/sys/net/ipv4/tcp_fastopen_key"
SLOP_SECS = 2.02


def key(secret, counter):
    salt = struct.pack("<Q", counter)
    digest = hashlib.blake2b(key=secret, digest_size=16, salt=salt, person=b"tofurkey").hexdigest()
    return "-".join(digest[at : at + 8] for at in range(0, 32, 8))


def rotate(path, interval):
    """The primary is the interval's; the backup is the one before it in its first half, and the one after it in its second."""
    with open(path, "rb") as file:
        secret = file.read(32)
    counter, since = divmod(int(time.time()), interval)
    backup = counter - 1 if since < interval // 2 else counter + 1
    text = f"{key(secret, counter)},{key(secret, backup)}\n"
    descriptor = os.open(KEY_FILE, os.O_WRONLY)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def ready():
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address)


options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
path, interval = options["-k"], int(options["-i"])
rotate(path, interval)
ready()
while True:
    half = interval // 2
    now = time.time()
    time.sleep((int(now) // half + 1) * half + SLOP_SECS - now)
    rotate(path, interval)
