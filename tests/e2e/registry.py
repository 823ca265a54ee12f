"""A registry that a real Ollama pulls from: the models of another server's store, over TLS, on loopback.

Ollama asks the registry for a blob and wants to be sent to another host for its bytes; here that is the same server by its
other name.
"""

import glob
import http.server
import os
import ssl
import subprocess
import threading
import time

from fleet import free_port


class Registry:
    """Serves the store of `source`. While `slow` is set, blobs come piece by piece and never to their end."""

    def __init__(self, source, directory):
        self.store = os.path.join(source.home, "models")
        self.port = free_port()
        self.slow = threading.Event()
        self.certificate = os.path.join(directory, "registry.pem")
        key = os.path.join(directory, "registry.key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", self.certificate,
             "-days", "2", "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
            check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                registry.answer(self, False)

            def do_GET(self):
                registry.answer(self, True)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request, wants_body):
        parts = request.path.strip("/").split("/")  # v2/NAMESPACE/MODEL/manifests/TAG or v2/NAMESPACE/MODEL/blobs/DIGEST
        if parts[-2] == "manifests":
            path, = glob.glob(os.path.join(self.store, "manifests/*/library", parts[2], parts[-1])) or [None]
        else:
            path = os.path.join(self.store, "blobs", parts[-1].replace(":", "-"))
        if path is None or not os.path.exists(path):
            return self.head(request, 404, 0)
        size = os.path.getsize(path)
        at_home = request.headers["Host"].startswith("127.")
        if parts[-2] == "blobs" and at_home and wants_body:
            return self.head(request, 307, 0, ("Location", f"https://localhost:{self.port}{request.path}"))
        first, last = 0, size - 1
        if "Range" in request.headers:
            first, last = (int(text) for text in request.headers["Range"].removeprefix("bytes=").split("-"))
        partial = ("Content-Range", f"bytes {first}-{last}/{size}") if "Range" in request.headers else None
        self.head(request, 206 if partial else 200, last - first + 1, *([partial] if partial else []))
        if wants_body:
            with open(path, "rb") as file:
                file.seek(first)
                self.body(request, file.read(last - first + 1))

    def body(self, request, data):
        piece = 64 << 10
        for start in range(0, len(data), piece):
            while self.slow.is_set() and start > len(data) // 2:
                time.sleep(0.05)  # the second half is for those who come later
            try:
                request.wfile.write(data[start:start + piece])
            except OSError:
                return

    @staticmethod
    def head(request, status, length, *fields):
        request.send_response(status)
        for name, value in (*fields, ("Content-Length", str(length))):
            request.send_header(name, value)
        request.end_headers()
