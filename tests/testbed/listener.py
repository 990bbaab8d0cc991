"""A TFO server as early as its unit is ordered: opens its listener, then notes the key that the kernel has by then.

The kernel makes a random key at the first setsockopt(TCP_FASTOPEN) if none is set (docs/kernel.md#the-key-file), so what is read
afterwards is the key under which this server hands out its first cookies.
"""
import socket
import sys

name, port = sys.argv[1], int(sys.argv[2])
server = socket.socket()
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
server.bind(("127.0.0.1", port))
server.listen(16)
with open("/proc/sys/net/ipv4/tcp_fastopen_key") as key, open(f"/run/seen-{name}", "w") as seen:
    seen.write(key.read())
