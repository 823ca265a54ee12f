"""Three real Ollama servers with different models, behind an Arriero that schedules.

    one    a:1, d:1                 has room for one model
    two    b:1, c:1, e:1, kept:1    has room for three; `kept:1` is pinned
    three  c:1
"""

import http.client
import json
import os
import re
import subprocess
import urllib.request
from urllib.parse import urlsplit

from checks import expect, expect_equal, wait_until
from fleet import Front, Ollama, fetch, fetch_json
from wire import send

STORES = {"one": ["a:1", "d:1"], "two": ["b:1", "c:1", "e:1", "kept:1"], "three": ["c:1"]}
ROOM = {"one": 1, "two": 3, "three": 3}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "stream": False, "options": {"num_predict": 2}}


class Three:
    """The servers, and Arriero in front of them."""

    def __init__(self, world):
        self.world = world
        self.servers = {}
        for name, models in STORES.items():
            server = world.keep(Ollama(name, world.cache, world.directory, OLLAMA_MAX_LOADED_MODELS=str(ROOM[name])))
            self.servers[name] = server
            for model in models:
                server.create(model, weights(world, model))
        self.front = world.keep(Front(world.binary, "front", world.directory, self.routes()))
        self.url, self.admin = self.front.url, self.front.admin + "/api/orchestrator/"

    def routes(self):
        servers = [f'      - {{ name: {name}, url: "{server.url}", max_loaded: {ROOM[name]} }}'
                   for name, server in self.servers.items()]
        return "\n".join([
            "routes: [{ name: all, match: { path: / }, upstream: fleet, explain: allow }]",
            "upstreams:",
            "  fleet:",
            "    kind: ollama",
            "    inventory: { interval: 1s }",
            "    health: { active: { interval: 1s, timeout: 2s, healthy: 1, unhealthy: 2 } }",
            '    models: [{ match: "kept:1", pin: [two] }]',
            "    servers:",
            *servers,
        ])

    def __getitem__(self, name):
        return self.servers[name]

    def ask(self, model, path="/api/chat", body=CHAT):
        return send(self.url, "POST", path, body | {"model": model})

    def admin_get(self, path):
        return fetch_json(self.admin + path)

    def restart(self, name):
        """Starts a server again that died."""
        self.servers[name].process.stop()  # what is left of it: its runners
        self.servers[name].start()
        self.world.keep(self.servers[name])

    def order(self, path):
        request = urllib.request.Request(self.admin + path, data=b"{}", method="POST")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def cli(self, *arguments):
        """`arriero` as an operator calls it; gives the process."""
        return subprocess.Popen([self.world.binary, *arguments, "-c", self.front.config], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def entry(self, answer):
        """The line of the access log about an answer."""
        number = answer.fields["X-Request-Id"]

        def found():
            lines = [line for line in self.front.process.log().splitlines() if number in line]
            entries = [json.loads(line) for line in lines if line.startswith("{")]
            return next((entry for entry in entries if entry.get("request_id") == number and "reason" in entry), None)

        return wait_until(found, 10, f"the access log has {number}")

    def served_by(self, answer):
        expect_equal(answer.status, 200, f"status ({answer.body[:200]})")
        return self.entry(answer)["server"]

    def metric(self, name, **labels):
        """The sum of a metric over the series that have these labels."""
        lines = [line for line in fetch(self.front.admin + "/metrics").decode().splitlines()
                 if re.match(name + r"[{ ]", line)]
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(line.split()[-1]) for line in lines if all(label in line for label in wanted))

    def circuit(self, server, model="server"):
        """The state of a circuit; one that is not kept is closed."""
        models = {row["model"]: row["state"] for row in self.admin_get(f"circuit-breakers/{server}")["models"]}
        if model == "server":
            return self.admin_get(f"circuit-breakers/{server}")["stats"]["state"]
        return models.get(model, "closed")

    def seen_in_memory(self):
        return {row["id"]: set(row["loaded"]) for row in self.admin_get("servers")["servers"]}

    def scene(self, *wanted):
        """Makes exactly these models warm, `MODEL@SERVER`, and `kept:1`, behind Arriero's back; all circuits are closed."""
        where = {name: {one.split("@")[0] for one in wanted if one.endswith("@" + name)} for name in self.servers}
        where["two"].add("kept:1")
        for name, server in self.servers.items():
            for model in server.loaded() - where[name]:
                send(server.url, "POST", "/api/generate", {"model": model, "keep_alive": 0})
            wait_until(lambda: server.loaded() <= where[name], 20, f"{name} has unloaded the others")
            for model in where[name]:
                send(server.url, "POST", "/api/generate", {"model": model})
            for circuit in ["server", *STORES[name]]:
                self.order(f"circuit-breakers/{name}/{circuit}/reset")
        wait_until(lambda: self.seen_in_memory() == where, 20, f"Arriero sees {where}")


class Stream:
    """An answer that is read line by line."""

    def __init__(self, three, model, path="/api/generate", **body):
        body = {"model": model, "prompt": "Go on", "messages": CHAT["messages"], "stream": True} | body
        del body["prompt" if path.endswith(("chat", "chat/completions")) else "messages"]
        self.body = json.dumps(body).encode()
        self.path = path
        self.connection = http.client.HTTPConnection(urlsplit(three.url).netloc, timeout=60)
        self.connection.request("POST", path, self.body,
                                {"Content-Type": "application/json", "X-Arriero-Explain": "1"})
        self.response = self.connection.getresponse()
        self.fields = self.response.headers
        expect_equal(self.response.status, 200, "status of a stream")
        self.server = json.loads(self.fields["X-Arriero-Decision"])["chosen"]

    def tokens(self, count):
        """Reads so many tokens."""
        while count > 0:
            line = self.response.readline()
            expect(line and b'"error"' not in line and b'"done":true' not in line, f"ended too early: {line}")
            count -= line.strip() != b""

    def rest(self):
        """What came until its end, as lines that are not empty, and whether it was cut off."""
        try:
            text, cut = self.response.read(), False
        except http.client.IncompleteRead as broken:
            text, cut = broken.partial, True
        self.connection.close()
        return [line for line in text.splitlines() if line], cut


def weights(world, model):
    """The tiny model by another name: Ollama keeps one runner for each file, whatever the models are called."""
    path = os.path.join(world.directory, f"{model.split(':')[0]}.gguf")
    if not os.path.exists(path):
        with open(os.path.join(world.cache, "model", "tiny.gguf"), "rb") as file:
            tiny = file.read()
        name = b"tiny-random-llama"
        expect(name in tiny, "the tiny model does not have its name")
        with open(path, "wb") as file:
            file.write(tiny.replace(name, model.encode().ljust(len(name)), 1))
    return path


def three_of(world):
    if not hasattr(world, "three"):
        world.three = Three(world)
    return world.three
