"""Three real servers with different models behind `expected_wait`: who is chosen, who loads, what crashes and drains do.

Each check sets its scene itself, so that it can run alone.
"""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from checks import check, expect, expect_equal, wait_until
from fleet import fetch_json, names, processor_time
from routing import settled
from three_servers import CHAT, STORES, Stream, three_of
from wire import send

ENDLESS = 50_000  # tokens; nobody waits for the last one
START = 'msg="starting llama server"'  # what Ollama logs when it starts a runner


def three_check(name):
    """A check that gets the three servers."""

    def register(function):
        check(f"three servers: {name}")(lambda world: function(three_of(world)))
        return function

    return register


def kill_runner(server, model):
    runner = server.runner(model)
    expect(runner is not None, f"{server.name} does not run {model}")
    os.kill(runner, signal.SIGKILL)


def crash(three, model, **body):
    """Kills the runner of a model under a stream; gives the stream and the lines that came after."""
    stream = Stream(three, model, options={"num_predict": ENDLESS}, **body)
    stream.tokens(3)
    kill_runner(three[stream.server], model)
    lines, _ = stream.rest()
    return stream, lines


@three_check("a pinned model is in memory from the start, loaded by Arriero")
def pinned(three):
    wait_until(lambda: "kept:1" in three["two"].loaded(), 30, "the pinned model is in memory")
    wait_until(lambda: three.metric("arriero_model_changes_total", kind="load", result="ok") > 0, 10, "the load is counted")
    expect_equal(three.metric("arriero_requests_total"), 0, "requests of clients")


@three_check("the lists are merged")
def lists(three):
    everything = {model for models in STORES.values() for model in models}
    wait_until(lambda: names(three.url) == everything, 10, "/api/tags names all models")
    listed = sorted(model["name"] for model in fetch_json(three.url + "/api/tags")["models"])
    expect_equal(listed, sorted(everything), "/api/tags")
    three.scene("a:1@one", "c:1@three")
    found = sorted(model["name"] for model in fetch_json(three.url + "/api/ps")["models"])
    expect_equal(found, ["a:1", "c:1", "kept:1"], "/api/ps")


@three_check("each request reaches a server that has its model")
def by_model(three):
    three.scene()
    bodies = {
        "/api/chat": CHAT,
        "/v1/chat/completions": {"messages": CHAT["messages"], "max_tokens": 2},
        "/api/embed": {"input": "one"},
    }
    for path, body in bodies.items():
        for model in ("a:1", "b:1", "c:1"):
            holders = {name for name, models in STORES.items() if model in models}
            for server in three.servers.values():
                settled(server)
            before = {name: server.requests("POST", path) for name, server in three.servers.items()}
            server = three.served_by(three.ask(model, path, body))
            expect(server in holders, f"{model} was asked for at {server}")
            expect(model in three[server].loaded(), f"{server} does not have {model} in memory")
            for name in three.servers:
                settled(three[name])
                expect_equal(three[name].requests("POST", path) - before[name], int(name == server),
                             f"requests for {path} that {name} logged while {server} was asked for {model}")


@three_check("a warm copy is chosen, and the choice is told")
def warm_copy(three):
    for warm, cold in (("two", "three"), ("three", "two")):
        three.scene(f"c:1@{warm}")
        stream = Stream(three, "c:1", options={"num_predict": 2})
        stream.rest()
        expect_equal(stream.server, warm, "the server that the decision names")
        expect_equal(three.entry(stream)["server"], warm, "the server in the access log")
        decision = json.loads(stream.fields["X-Arriero-Decision"])
        found = [(one["server"], one["model_is"]) for one in decision["candidates"]]
        expect_equal(found, [(warm, "ready"), (cold, "cold")], "the candidates, the best first")
        best, other = decision["candidates"]
        worse = other.get("excluded") == "load_takes_longer" or other["score"] > best["score"]
        expect(worse, f"candidates {decision['candidates']}")
        told = three.admin_get("analytics/decisions?model=c:1&limit=1")["decisions"][0]
        expect_equal((told["chosen"], told["upstream"]), (warm, "fleet"), "the last choice")


@three_check("many who wait for a cold model cause one load, which Arriero makes")
def one_load(three):
    three.scene()
    server = three["one"]
    settled(server)
    log = server.process.log()
    loads = three.metric("arriero_model_changes_total", kind="load")
    generates, chats = server.requests("POST", "/api/generate"), server.requests("POST", "/api/chat")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: three.ask("a:1"), range(8)))
    expect_equal([three.served_by(answer) for answer in answers], ["one"] * 8, "where they were served")
    settled(server)
    expect_equal(server.process.log()[len(log):].count(START), 1, "runners that were started")
    expect_equal(three.metric("arriero_model_changes_total", kind="load") - loads, 1, "loads that Arriero ordered")
    expect_equal(server.requests("POST", "/api/generate") - generates, 1, "requests of Arriero's own")
    expect_equal(server.requests("POST", "/api/chat") - chats, 8, "requests of clients")
    waited = [three.entry(answer).get("queue_ms", 0) > 0 for answer in answers]
    expect(sum(waited) >= 2, f"those that waited in Arriero: {waited}")


@three_check("Arriero makes room before a load, and never at the cost of a pinned model")
def room(three):
    three.scene("a:1@one", "b:1@two", "e:1@two")
    three.order("servers/three/drain")
    try:
        for model, name in (("d:1", "one"), ("c:1", "two")):
            before = three[name].loaded()
            unloads = three.metric("arriero_model_changes_total", kind="unload", result="ok")
            runner = three["two"].runner("kept:1")
            expect_equal(three.served_by(three.ask(model)), name, f"where {model} was served")
            expect(model in three[name].loaded(), f"{name} does not have {model} in memory")
            expect_equal(len(before - three[name].loaded()), 1, f"models that {name} lost")
            expect_equal(three.metric("arriero_model_changes_total", kind="unload", result="ok") - unloads, 1,
                         "models that Arriero unloaded")
            expect_equal(three["two"].runner("kept:1"), runner, "the process that runs the pinned model")
    finally:
        three.order("servers/three/undrain")


@three_check("a runner that dies mid-stream: an error in the stream, the model goes on, its request does not")
def runner_dies(three):
    three.scene("c:1@two")
    before = three.metric("arriero_quarantined")
    stream, lines = crash(three, "c:1", prompt="A first prompt that kills")
    expect_equal(stream.server, "two", "where it ran")
    expect("error was encountered while running the model" in json.loads(lines[-1])["error"], f"last line {lines[-1]}")
    expect(not any(b'"done":true' in line for line in lines), "the answer says that it is done")
    entry = three.entry(stream)
    expect_equal((entry["status"], entry["reason"], entry["attempts"]), (200, "stream_error", 1), "the access log")
    expect_equal((three.circuit("two", "c:1"), three.circuit("two")), ("closed", "closed"), "circuits after one crash")
    expect_equal(three.served_by(three.ask("c:1")), "two", "where the next request was served")
    settled(three["two"])
    generates = three["two"].requests("POST", "/api/generate"), three["three"].requests("POST", "/api/generate")
    again = send(three.url, "POST", stream.path, stream.body)
    expect_equal((again.status, again.fields["X-Arriero-Reason"]), (500, "quarantined"), "the same request again")
    expect("runner crash" in json.loads(again.body)["error"], f"body {again.body}")
    settled(three["two"]), settled(three["three"])
    expect_equal((three["two"].requests("POST", "/api/generate"), three["three"].requests("POST", "/api/generate")),
                 generates, "requests that the servers had")
    expect_equal(three.metric("arriero_quarantined") - before, 1, "arriero_quarantined")


@three_check("a runner that dies before a whole answer: the server's 500, no second attempt, quarantine")
def runner_dies_early(three):
    three.scene("c:1@two")
    body = {"prompt": "A second prompt that kills", "stream": False, "options": {"num_predict": ENDLESS}}
    runner = three["two"].runner("c:1")
    idle = processor_time(runner)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(three.ask, "c:1", "/api/generate", body)
        wait_until(lambda: processor_time(runner) > idle + 20, 20, "the runner works")
        os.kill(runner, signal.SIGKILL)
        answer = answer.result(60)
    entry = three.entry(answer)
    expect_equal((answer.status, entry["server"], entry["attempts"]), (500, "two", 1), "the answer")
    expect("error was encountered while running the model" in json.loads(answer.body)["error"], f"body {answer.body}")
    expect_equal(three["three"].loaded(), set(), "what the other server loaded for it")
    again = three.ask("c:1", "/api/generate", body)
    expect_equal((again.status, again.fields["X-Arriero-Reason"]), (500, "quarantined"), "the same request again")


@three_check("a runner that dies under OpenAI's stream, of which Ollama says nothing: an error all the same")
def runner_dies_openai(three):
    three.scene("c:1@two")
    stream, lines = crash(three, "c:1", path="/v1/chat/completions")
    expect(not any(b"[DONE]" in line for line in lines), "the stream says that it is done")
    expect("error" in json.loads(lines[-1].removeprefix(b"data:")), f"last event {lines[-1]}")
    expect_equal(three.entry(stream)["reason"], "stream_error", "the reason in the access log")


@three_check("two crashes open the circuit of this model on this server, and nothing else")
def two_crashes(three):
    three.scene("b:1@two", "c:1@two")
    for number, wanted in ((1, "closed"), (2, "open")):
        stream, _ = crash(three, "c:1", prompt=f"Prompt {number} of two that kill")
        expect_equal(stream.server, "two", "where it ran")
        three.entry(stream)
        expect_equal(three.circuit("two", "c:1"), wanted, f"the model's circuit after crash {number}")
    expect_equal(three.circuit("two"), "closed", "the server's own circuit")
    expect_equal({three.served_by(three.ask("c:1")) for _ in range(3)}, {"three"}, "where the model is served")
    expect_equal(three.served_by(three.ask("b:1")), "two", "where another model is served")
    excluded = [one.get("excluded") for one in
                three.admin_get("analytics/decisions?model=c:1&limit=1")["decisions"][0]["candidates"]
                if one["server"] == "two"]
    expect_equal(excluded, ["model_circuit_open"], "why the server was passed over")


@three_check("a server that dies mid-stream: both dialects end with an error and are cut off; others go on; it comes back")
def server_dies(three):
    three.scene("b:1@two", "c:1@two")
    server = three["two"]
    native = Stream(three, "c:1", options={"num_predict": ENDLESS})
    openai = Stream(three, "c:1", path="/v1/chat/completions", max_tokens=ENDLESS)
    expect_equal((native.server, openai.server), ("two", "two"), "where they ran")
    native.tokens(3), openai.tokens(3)
    os.kill(server.process.child.pid, signal.SIGKILL)
    server.process.child.wait(10)  # what it was sent until then is lost, and not sent again
    answers = [three.ask("c:1") for _ in range(10)]
    expect_equal({three.served_by(answer) for answer in answers}, {"three"}, "where the model is served from then on")
    lines, cut = native.rest()
    expect(isinstance(json.loads(lines[-1])["error"], str) and cut, f"last line {lines[-1]}, cut off: {cut}")
    lines, cut = openai.rest()
    expect(lines[-1].startswith(b"data: ") and cut, f"last event {lines[-1]}, cut off: {cut}")
    expect(isinstance(json.loads(lines[-1][6:])["error"]["message"], str), f"last event {lines[-1]}")
    for stream in (native, openai):
        entry = three.entry(stream)
        expect_equal((entry["reason"], entry["attempts"]), ("upstream_truncated", 1), "the access log")
    wait_until(lambda: three.ask("b:1").status == 503, 10, "503 for what nobody else has")
    three.restart("two")
    wait_until(lambda: three.ask("b:1").status == 200, 20, "it is used again")
    wait_until(lambda: "kept:1" in server.loaded(), 20, "the pinned model is in memory again")


@three_check("a drain empties a server without a cut, and undrain brings it back")
def drain(three):
    three.scene("b:1@two", "c:1@two")
    stream = Stream(three, "c:1", options={"num_predict": 400, "seed": 7})
    expect_equal(stream.server, "two", "where it runs")
    stream.tokens(1)
    drained = three.cli("drain", "two", "--wait", "30s", "--reason", "new disk")
    view = wait_until(lambda: draining(three, "two"), 10, "the server drains")
    expect_equal((view["inFlight"], view["empty"], view["operation"]["reason"]), (1, False, "new disk"), "the server")
    expect_equal({three.served_by(three.ask("c:1")) for _ in range(3)}, {"three"}, "where the model is served")
    answer = three.ask("b:1")
    expect_equal((answer.status, answer.fields["X-Arriero-Reason"]), (503, "no_server"), "what nobody else has")
    lines, cut = stream.rest()
    last = json.loads(lines[-1])
    expect(last["done"] and not cut, f"the stream was cut: {lines[-1]}")
    expect_equal((last["done_reason"], last["eval_count"]), ("length", 400), "the end of the stream")
    text, _ = drained.communicate(timeout=40)
    expect_equal((drained.returncode, "0 requests in flight" in text), (0, True), f"`arriero drain` ({text})")
    back = three.cli("undrain", "two")
    text, _ = back.communicate(timeout=20)
    expect_equal(back.returncode, 0, f"exit status of `arriero undrain` ({text})")
    expect_equal(three.served_by(three.ask("b:1")), "two", "where its own model is served")


def draining(three, name):
    view = three.admin_get(f"servers/{name}")["server"]
    return view if view["operation"]["state"] == "draining" else None


@three_check("operators see real values")
def operators(three):
    three.scene("b:1@two", "c:1@three")
    three.ask("b:1")
    rows = {row["id"]: row for row in three.admin_get("servers")["servers"]}
    expect_equal(set(rows), set(STORES), "servers")
    for name, row in rows.items():
        expect_equal((row["healthy"], row["operation"]["state"], row["inFlight"], row["circuitBreaker"]),
                     (True, "active", 0, "closed"), name)
        expect_equal(set(row["models"]), set(STORES[name]), f"models of {name}")
        expect_equal(set(row["loaded"]), three[name].loaded(), f"models in memory of {name}")
        expect_equal(row["version"], fetch_json(three[name].url + "/api/version")["version"], f"version of {name}")
        expect(row["lastResponseTime"] > 0, f"response time of {name}: {row['lastResponseTime']}")
    circuits = three.admin_get("circuit-breakers")["circuitBreakers"]
    expect(set(STORES) <= {row["key"] for row in circuits}, f"circuits {circuits}")
    decision = three.admin_get("analytics/decisions?limit=1")["decisions"][0]
    expect_equal((decision["model"], decision["chosen"]), ("b:1", "two"), "the last choice")
    status = three.admin_get("models/c:1/status")
    expect_equal({name: row["state"] for name, row in status["servers"].items()},
                 {"two": "available", "three": "loaded"}, "where c:1 is")
    expect_equal(three.admin_get("queue")["queue"], 0, "requests that wait")
