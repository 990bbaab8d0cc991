"""The receiver of a webhook, which judges what a coordinator sends with Python's own ssl and hmac.

hook.py PORT CERT KEY SECRET OUT DOWN: TLS 1.3 on 127.0.0.1:PORT.  Each request is a line of JSON in OUT.  While the file DOWN is
there, the answer is 503; otherwise 204 to a request that is signed, young and about one event, and 401 to any other.
"""

import hashlib
import hmac
import http.server
import json
import os
import ssl
import sys
import time

PORT, CERT, KEY, SECRET, OUT, DOWN = sys.argv[1:]
with open(SECRET, "rb") as file:
    SHARED = file.read().rstrip(b"\r\n")


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        stamp = self.headers["Tfo-Timestamp"] or "0"
        expected = hmac.new(SHARED, b"v1:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        event = json.loads(body)
        good = (
            hmac.compare_digest("v1=" + expected, self.headers["Tfo-Signature"] or "")
            and abs(time.time() - int(stamp)) < 60
            and self.headers["Tfo-Event-Id"] == event["id"]
            and self.headers["Content-Type"] == "application/json"
        )
        status = 503 if os.path.exists(DOWN) else 204 if good else 401
        with open(OUT, "a", encoding="utf-8") as out:
            line = {"status": status, "signed": good, "tls": self.connection.version(), "path": self.path, "event": event}
            out.write(json.dumps(line) + "\n")
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(CERT, KEY)
server = Server(("127.0.0.1", int(PORT)), Hook)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
