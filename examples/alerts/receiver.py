#!/usr/bin/env python3
"""Takes the messages of Arriero's webhooks, checks who sent them, and prints one line for each.

usage: receiver.py SECRET_FILE [PORT]     port 9000 unless it says otherwise; 0 takes a free one

Python's standard library is all that it needs.
"""

import hashlib
import hmac
import http.server
import json
import sys
import time

# Older messages may have been recorded by somebody and sent again.
LONGEST_AGE = 300


def is_genuine(secret, fields, body, now):
    """Whether a body was signed with the secret (bytes), within the last minutes."""
    timestamp = fields.get("X-Arriero-Timestamp") or ""
    if not timestamp.isdigit() or abs(now - int(timestamp)) > LONGEST_AGE:
        return False
    signed = timestamp.encode() + b"." + body
    expected = "sha256=" + hmac.new(secret, signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, fields.get("X-Arriero-Signature") or "")


class Receiver(http.server.BaseHTTPRequestHandler):
    seen = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with open(sys.argv[1], "rb") as file:
            secret = file.read().strip()
        if not is_genuine(secret, self.headers, body, time.time()):
            self.send_error(401)
            return
        message = json.loads(body)
        # The same message may come twice: when our answer to the first one was lost.
        if message["id"] not in self.seen:
            self.seen.add(message["id"])
            print(message["event"], message["subject"], message["message"], sep="\t", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 9000
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
