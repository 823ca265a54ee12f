"""Requests byte by byte, and the comparison of an answer through Arriero with the direct one."""

import http.client
import json
import re
from urllib.parse import urlsplit

from checks import expect_equal

# What differs between two runs of the same request at the same server.
VOLATILE = re.compile(
    rb'"(created_at|expires_at|id)":"[^"]*"'
    rb'|"(created|total_duration|load_duration|prompt_eval_duration|eval_duration)":\d+')


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.content_type = response.getheader("Content-Type")
        self.chunked = response.getheader("Transfer-Encoding") == "chunked"
        self.fields = response.headers
        self.body = response.read()

    def masked(self):
        return VOLATILE.sub(lambda match: b'"%s":*' % (match[1] or match[2]), self.body)


def send(base, method, path, body=None, headers=None):
    """One request on a connection of its own. A body that is not bytes is sent as JSON."""
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def pieces(body):
    """The lines within the strings of a JSON text, in one order."""
    return sorted(re.split(rb'\\n|"', body))


def compare(direct, front, method, path, body=None, headers=None, status=200):
    """Sends the same request to a server and through Arriero; the answers must be equal to the byte."""
    if status == 200 and body is not None:
        send(direct, method, path, body, headers)  # so that both find the same prompt cache
    wanted = send(direct, method, path, body, headers)
    expect_equal(wanted.status, status, "status of the direct answer")
    got = send(front, method, path, body, headers)
    expect_equal(got.status, wanted.status, "status")
    expect_equal(got.content_type, wanted.content_type, "Content-Type")
    if path == "/api/show":  # Ollama tells a model's parameters in another order each time
        expect_equal(pieces(got.masked()), pieces(wanted.masked()), "body")
    else:
        expect_equal(got.masked(), wanted.masked(), "body")
    expect_equal(got.chunked, wanted.chunked, "use of chunked transfer coding")
