"""What operators order about models, against real servers: into memory and out of it, other names, pulls.

Each check sets its scene itself, so that it can run alone.
"""

import json
import os
import urllib.error
import urllib.request

from checks import check, expect, expect_equal, wait_until
from fleet import Front, Ollama, fetch_json, names
from registry import Registry
from three_ollamas import three_check
from three_servers import three_of
from wire import send


def give(three, method, path, body=None):
    """Status and answer of an order."""
    request = urllib.request.Request(three.admin + path, data=json.dumps(body or {}).encode(), method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def rows(answer):
    return {row["serverId"]: row["state"] for row in answer["job"]["servers"]}


@three_check("a warmup loads a model, an unload takes it out, and a pin is heeded")
def warm_and_unload(three):
    three.scene()
    status, answer = give(three, "POST", "models/c:1/warmup?wait=60s")
    expect_equal((status, rows(answer)), (200, {"two": "done", "three": "done"}), f"the warmup ({answer})")
    expect(all(row["loadTime"] > 0 and row["estimatedTime"] > 0 for row in answer["jobs"]), f"times {answer['jobs']}")
    for name in ("two", "three"):
        expect("c:1" in three[name].loaded(), f"{name} does not have it in memory")
    again = give(three, "POST", "models/c:1/warmup?wait=60s")[1]
    expect_equal([row["loadTime"] for row in again["jobs"]], [None, None], "load times of what is in memory")
    status, answer = give(three, "POST", "models/c:1/unload")
    expect_equal((status, answer["success"]), (200, True), f"the unload ({answer})")
    for name in ("two", "three"):
        expect("c:1" not in three[name].loaded(), f"{name} has it in memory")
        wait_until(lambda: three[name].runner("c:1") is None, 20, f"{name} has ended the runner")
    runner = three["two"].runner("kept:1")
    answer = give(three, "POST", "models/kept:1/unload")[1]
    expect_equal((answer["success"], rows(answer)), (False, {"two": "failed"}), f"the unload of a pinned model ({answer})")
    expect_equal(three["two"].runner("kept:1"), runner, "the process that runs the pinned model")


@three_check("a copy is asked for at once, a deleted one no more")
def copy_and_delete(three):
    three.scene()
    status, answer = give(three, "POST", "servers/three/models/copy", {"source": "c:1", "destination": "mine/copy:7"})
    expect_equal((status, rows(answer)), (200, {"three": "done"}), f"the copy ({answer})")
    expect_equal(three.served_by(three.ask("mine/copy:7")), "three", "where the copy is served")
    status, answer = give(three, "DELETE", "models/mine%2Fcopy:7")
    expect_equal(status, 400, f"a delete everywhere without the name ({answer})")
    status, answer = give(three, "DELETE", "models/mine%2Fcopy:7?confirm=mine/copy:7")
    expect_equal((status, rows(answer)), (200, {"three": "done"}), f"the delete ({answer})")
    expect_equal(three.ask("mine/copy:7").status, 404, "what asks for it")
    expect("mine/copy:7" not in names(three["three"].url), "it is on the disk")
    expect("mine/copy:7" not in three["three"].loaded(), "it is in memory")
    status, answer = give(three, "DELETE", "servers/two/models/kept:1")
    expect_equal(status, 409, f"the delete of a pinned model ({answer})")


@three_check("a pull that fails says so in Ollama's words, and a registry that is not Ollama's own needs a word")
def pull_fails(three):
    name = "127.0.0.1:9/none/model:1"  # nobody listens there
    status, answer = give(three, "POST", "models/127.0.0.1:9%2Fnone%2Fmodel:1/pull", {"servers": ["three"]})
    expect_equal(status, 403, f"without a word ({answer})")
    status, answer = give(three, "POST", "servers/three/models/pull?wait=60s", {"model": name, "allowRemote": True})
    row = answer["job"]["servers"][0]
    expect_equal((status, row["state"], answer["success"]), (200, "failed", False), f"the pull ({answer})")
    expect("connection refused" in row["error"] or "dial tcp" in row["error"], f"error {row['error']}")
    done = three.cli("pull", name, "--server", "three", "--allow-remote")
    text, _ = done.communicate(timeout=60)
    expect_equal((done.returncode, "three: failed" in text), (1, True), f"`arriero pull` ({text})")


@check("a pull from a registry: its progress, its cancellation, the rest of it, and the model that it brings")
def pull(world):
    registry = Registry(three_of(world)["one"], world.directory)
    server = world.keep(Ollama("puller", world.cache, world.directory, SSL_CERT_FILE=registry.certificate))
    front = world.keep(Front(world.binary, "pulls", world.directory, "\n".join([
        "routes: [{ name: all, match: { path: / }, upstream: fleet, cloud_models: allow }]",
        f"upstreams: {{ fleet: {{ kind: ollama, servers: [{{ name: puller, url: '{server.url}' }}] }} }}",
    ])))
    admin = front.admin + "/api/orchestrator/"
    name = f"127.0.0.1:{registry.port}/library/a:1"

    def give(method, path, body=None):
        answer = send(front.admin, method, "/api/orchestrator/" + path, body or {})
        return answer.status, json.loads(answer.body)

    def row(job):
        return fetch_json(f"{admin}jobs/{job}")["job"]["servers"][0]

    registry.slow.set()
    status, answer = give("POST", "servers/puller/models/pull", {"model": name, "allowRemote": True})
    expect_equal(status, 202, f"the order ({answer})")
    job = answer["job"]["id"]
    half = wait_until(lambda: row(job)["completed"] and row(job), 30, "some of it has come")
    expect(half["status"].startswith("pulling ") and half["completed"] < half["total"], f"progress {half}")
    status, answer = give("DELETE", f"jobs/{job}")
    expect_equal((status, answer["job"]["state"]), (200, "cancelled"), f"the cancellation ({answer})")
    wait_until(lambda: server.requests("POST", "/api/pull") == 1, 20, "Ollama has ended its pull")
    expect_equal(names(server.url), set(), "what the server has")
    registry.slow.clear()
    status, answer = give("POST", "servers/puller/models/pull?wait=60s", {"model": name, "allowRemote": True})
    expect_equal((status, answer["success"]), (200, True), f"the second pull ({answer})")
    done = answer["job"]["servers"][0]
    weights = os.path.getsize(os.path.join(world.directory, "a.gguf"))
    expect(done["completed"] == done["total"] >= weights, f"bytes {done}, the weights have {weights}")
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": False, "options": {"num_predict": 2}}
    answer = send(front.url, "POST", "/api/chat", body | {"model": name})
    expect_equal(answer.status, 200, f"a request for what was pulled ({answer.body[:200]})")
