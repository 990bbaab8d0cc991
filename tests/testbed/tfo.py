"""A TCP Fast Open server and client, for the namespaces of a test.

tfo.py serve PORT [KEY]              accepts for ever on [::]:PORT; prints `ready`
tfo.py connect SOURCE TARGET PORT    one connection with data in the SYN; prints a JSON line about what became of it

`mptcp` in front of the command makes the socket one of Multipath TCP.
"""

import json
import socket
import sys

IPPROTO_MPTCP = 262
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN = 23
TCP_FASTOPEN_KEY = 33
TCPI_OPT_SYN_DATA = 32


def serve(protocol, port, key=None):
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(64)
    listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 64)
    if key is not None:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_KEY, bytes.fromhex(key))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(64))


def connect(protocol, source, target, port):
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as client:
        client.bind((source, 0))
        client.sendto(b"hello", MSG_FASTOPEN, (target, port))
        answer = client.recv(64)
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    accepted = bool(info[5] & TCPI_OPT_SYN_DATA)
    print(json.dumps({"accepted": accepted, "fail": info[7] >> 1 & 3, "echoed": answer == b"hello"}))


words = sys.argv[1:]
used = socket.IPPROTO_TCP
if words[0] == "mptcp":
    used, words = IPPROTO_MPTCP, words[1:]
if words[0] == "serve":
    serve(used, int(words[1]), *words[2:])
else:
    connect(used, words[1], words[2], int(words[3]))
