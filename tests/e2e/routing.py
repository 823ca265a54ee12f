"""Each request reaches a server that has its model; what a client leaves is freed; a server may go away.

The last checks change the fleet, so they run last and in this order.
"""

import http.client
import itertools
import json
import socket
from urllib.parse import urlsplit

from checks import check, expect, expect_equal, wait_until
from fleet import fetch_json, names, processor_time
from wire import send

MARKS = itertools.count()


def unload(server):
    for model in server.loaded():
        send(server.url, "POST", "/api/generate", {"model": model, "keep_alive": 0})
    wait_until(lambda: not server.loaded(), 20, "the server is empty")


@check("routing: a model reaches the server that has it, in every dialect and spelling")
def by_model(world):
    requests = [
        ("/api/generate", {"prompt": "Hi", "stream": False, "options": {"num_predict": 2}}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
        ("/api/embed", {"input": "one"}),
    ]
    for path, body in requests:
        for model, server, other in (("tiny:1", world.a, world.b), ("tiny:2", world.b, world.a)):
            unload(world.a)
            unload(world.b)
            answer = send(world.fleet.url, "POST", path, body | {"model": model})
            expect_equal(answer.status, 200, f"status of {path} with {model} ({answer.body[:200]})")
            expect_equal((server.loaded(), other.loaded()), ({model}, set()), f"what is loaded after {path}")


@check("routing: other letter case and library/ name the same model")
def spelling(world):
    for spelling in ("TINY:2", "library/tiny:2"):
        answer = send(world.fleet.url, "POST", "/api/generate",
                      {"model": spelling, "prompt": "Hi", "stream": False, "options": {"num_predict": 2}})
        expect_equal(answer.status, 200, f"status for {spelling} ({answer.body[:200]})")


@check("routing: a model on both servers is listed once")
def listed_once(world):
    for path, key, name in (("/api/tags", "models", "name"), ("/v1/models", "data", "id")):
        found = sorted(model[name] for model in fetch_json(world.fleet.url + path)[key])
        expect_equal(found, ["both:1", "tiny:1", "tiny:2"], path)


@check("routing: /api/ps names what is loaded on any server")
def loaded_anywhere(world):
    for model in ("tiny:1", "tiny:2"):
        send(world.fleet.url, "POST", "/api/generate", {"model": model})
    wait_until(lambda: {model["name"] for model in fetch_json(world.fleet.url + "/api/ps")["models"]}
               >= {"tiny:1", "tiny:2"}, 20, "both models in /api/ps")


@check("routing: preload and unload pass")
def preload(world):
    answer = send(world.fleet.url, "POST", "/api/generate", {"model": "tiny:2", "keep_alive": "5m"})
    expect_equal(json.loads(answer.body)["done_reason"], "load", "done_reason")
    expect("tiny:2" in world.b.loaded(), "not loaded")
    answer = send(world.fleet.url, "POST", "/api/generate", {"model": "tiny:2", "keep_alive": 0})
    expect_equal(json.loads(answer.body)["done_reason"], "unload", "done_reason")
    wait_until(lambda: "tiny:2" not in world.b.loaded(), 20, "unloaded")


@check("routing: model affinity: a model that one of two servers has loaded goes there")
def affinity(world):
    unload(world.a)
    unload(world.b)
    send(world.b.url, "POST", "/api/generate", {"model": "both:1"})
    wait_until(lambda: "both:1" in {model["name"] for model in fetch_json(world.fleet.url + "/api/ps")["models"]},
               20, "Arriero knows that it is loaded")
    for _ in range(4):
        answer = send(world.fleet.url, "POST", "/api/generate",
                      {"model": "both:1", "prompt": "Hi", "stream": False, "options": {"num_predict": 2}})
        expect_equal(answer.status, 200, "status")
    expect_equal(world.a.loaded(), set(), "loaded on the other server")


def long_request(base, stream):
    """A chat that would last minutes; gives the connection after it was sent. Arriero itself never asks for a chat."""
    body = {"model": "tiny:1", "messages": [{"role": "user", "content": "Go on"}], "stream": stream,
            "options": {"num_predict": 50_000}}
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
    connection.request("POST", "/api/chat", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return connection


def settled(server):
    """The count of finished chats once the server has written its log: it does so after it answered."""
    path = f"/api/mark-{next(MARKS)}"
    send(server.url, "GET", path)
    wait_until(lambda: server.requests("GET", path) == 1, 10, "the server writes its log")
    return server.requests("POST", "/api/chat")


def cut(connection):
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


@check("a client that leaves mid-stream frees the server")
def leave_mid_stream(world):
    before = settled(world.a)
    connection = long_request(world.fleet.url, True)
    response = connection.getresponse()
    for _ in range(5):
        expect(not json.loads(response.readline())["done"], "done too early")
    expect_equal(world.a.requests("POST", "/api/chat"), before, "requests that the server finished")
    cut(connection)
    wait_until(lambda: world.a.requests("POST", "/api/chat") == before + 1, 10, "the server ends the request")


@check("a client that leaves while it waits for a whole answer frees the server")
def leave_waiting(world):
    send(world.a.url, "POST", "/api/generate", {"model": "tiny:1"})
    before, runner = settled(world.a), world.a.runner("tiny:1")
    idle = processor_time(runner)
    connection = long_request(world.fleet.url, False)
    wait_until(lambda: processor_time(runner) > idle + 20, 20, "the server works")
    expect_equal(world.a.requests("POST", "/api/chat"), before, "requests that the server finished")
    cut(connection)
    wait_until(lambda: world.a.requests("POST", "/api/chat") == before + 1, 10, "the server ends the request")


@check("hot reload: an edit is live and a stream that runs goes on")
def hot_reload(world):
    body = {"model": "tiny:2", "prompt": "Hi", "stream": True, "options": {"num_predict": 120}}
    connection = http.client.HTTPConnection(urlsplit(world.fleet.url).netloc, timeout=60)
    connection.request("POST", "/api/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = response.readline()
    expect(not json.loads(first)["done"], "done too early")
    world.fleet.write({"a": world.a.url})  # the server of this very stream is gone from the file
    wait_until(lambda: names(world.fleet.url) == {"tiny:1", "both:1"}, 10, "the edit is live")
    lines = response.read().splitlines()
    connection.close()
    expect(json.loads(lines[-1])["done"], f"the stream was cut: {lines[-1]}")
    expect_equal(send(world.fleet.url, "POST", "/api/show", {"model": "tiny:2"}).status, 404, "status without the server")


@check("hot reload: a broken file changes nothing, its repair is live")
def broken_file(world):
    with open(world.fleet.config, "w") as file:
        file.write("version: 1\nlisteners: [\n")
    log = wait_until(lambda: "arriero.yaml" in world.fleet.process.log() and world.fleet.process.log(), 10,
                     "the error is logged")
    expect(world.fleet.process.running(), f"arriero ended: {log[-1000:]}")
    expect_equal(send(world.fleet.url, "POST", "/api/show", {"model": "tiny:1"}).status, 200, "status with a broken file")
    world.fleet.write({"a": world.a.url, "b": world.b.url})
    wait_until(lambda: names(world.fleet.url) == {"tiny:1", "tiny:2", "both:1"}, 10, "the repair is live")


@check("a server that died: its models answer 503 in the client's dialect, lists and the others go on")
def dead_server(world):
    world.b.process.stop()
    wait_until(lambda: send(world.fleet.url, "POST", "/api/generate", {"model": "tiny:2", "prompt": "Hi"}).status == 503,
               20, "503 for a model whose only holder is down")
    answer = send(world.fleet.url, "POST", "/api/generate", {"model": "tiny:2", "prompt": "Hi"})
    expect(isinstance(json.loads(answer.body)["error"], str), f"not Ollama's form: {answer.body}")
    answer = send(world.fleet.url, "POST", "/v1/chat/completions",
                  {"messages": [{"role": "user", "content": "Hi"}], "model": "tiny:2"})
    expect_equal(answer.status, 503, "status in OpenAI's dialect")
    expect(isinstance(json.loads(answer.body)["error"]["message"], str), f"not OpenAI's form: {answer.body}")
    expect("tiny:1" in names(world.fleet.url), "the other server's models are not listed")
    for _ in range(4):
        answer = send(world.fleet.url, "POST", "/api/generate",
                      {"model": "both:1", "prompt": "Hi", "stream": False, "options": {"num_predict": 2}})
        expect_equal(answer.status, 200, "status of a model that a living server has")
