"""A stream that has to wait, read by the Python package `openai`: the comments before it are no part of it."""

import contextlib
import http.server
import json
import threading

import openai

from checks import check, expect, expect_equal, wait_until
from fleet import Front, fetch

HELLO = [{"role": "user", "content": "Hello"}]
ROUTES = """routes: [{{ name: all, match: {{ path: / }}, upstream: slow }}]
upstreams:
  slow:
    kind: openai
    queue: {{ keepalive: 50ms }}
    servers: [{{ url: "http://127.0.0.1:{port}" }}]
"""


class SlowServer:
    """Has one model, `slow`, and answers its requests once it is told to, with `status`."""

    def __init__(self):
        self.go = threading.Event()
        self.status = 200
        slow = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, content_type, body):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                models = {"object": "list", "data": [{"id": "slow", "object": "model"}]}
                self.answer(200, "application/json", json.dumps(models).encode())

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                slow.go.wait(30)
                if slow.status != 200:
                    return self.answer(slow.status, "application/json", b'{"error": {"message": "no more memory"}}')
                parts = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("so ", "slow")]
                lines = [json.dumps(part) for part in parts] + ["[DONE]"]
                return self.answer(200, "text/event-stream", "".join(f"data: {line}\n\n" for line in lines).encode())

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.go.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def behind_arriero(world, name):
    slow = SlowServer()
    front = Front(world.binary, name, world.directory, ROUTES.format(port=slow.port))
    world.processes.append(front.process)
    try:
        wait_until(lambda: b"slow" in fetch(front.url + "/v1/models"), 20, "the model is known")
        yield slow, openai.OpenAI(base_url=front.url + "/v1", api_key="x", max_retries=0, timeout=60)
    finally:
        front.process.stop()
        slow.stop()


def begin(client):
    """A stream whose head has come, which only comments can have brought."""
    return client.chat.completions.create(model="slow", messages=HELLO, stream=True)


@check("openai-python: a stream that waits is the stream that comes")
def stream_after_comments(world):
    with behind_arriero(world, "waiting") as (slow, client):
        stream = begin(client)
        expect(not slow.go.is_set(), "the server has answered already")
        slow.go.set()
        expect_equal("".join(part.choices[0].delta.content for part in stream), "so slow", "the text")


@check("openai-python: an error after comments is raised")
def error_after_comments(world):
    with behind_arriero(world, "waiting-error") as (slow, client):
        slow.status = 500
        stream = begin(client)
        slow.go.set()
        try:
            list(stream)
        except openai.APIError as error:
            expect("no more memory" in str(error), f"another error: {error}")
        else:
            expect(False, "no error was raised")
