"""A TCP Fast Open server and client, for the namespaces of a test.

tfo.py serve PORT                    accepts for ever on [::]:PORT; prints `ready`
tfo.py connect SOURCE TARGET PORT    one connection with data in the SYN; prints a JSON line about what became of it
"""

import json
import socket
import sys

MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN = 23
TCP_FASTOPEN_KEY = 33
TCPI_OPT_SYN_DATA = 32


def serve(port, key=None):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 64)
    if key is not None:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_KEY, bytes.fromhex(key))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(64))


def connect(source, target, port):
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.bind((source, 0))
        client.sendto(b"hello", MSG_FASTOPEN, (target, port))
        answer = client.recv(64)
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    accepted = bool(info[5] & TCPI_OPT_SYN_DATA)
    print(json.dumps({"accepted": accepted, "fail": info[7] >> 1 & 3, "echoed": answer == b"hello"}))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), *sys.argv[3:])
else:
    connect(sys.argv[2], sys.argv[3], int(sys.argv[4]))
