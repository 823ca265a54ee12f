"""What the checks of the dashboard need: a pretended fleet, Arriero before it, and a real Chromium."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

from playwright.sync_api import expect as see
from playwright.sync_api import sync_playwright

from checks import expect, expect_equal
from fleet import Front, Process, fetch_json
from pretend import Host, Hosts

VIEWS = ["fleet", "models", "traffic", "in-flight", "queue", "protection", "decisions", "quotas", "caches", "cluster", "config"]
TITLES = ["Fleet", "Models", "Traffic", "In flight", "Queue", "Circuits and bans", "Decisions", "Quotas", "Caches", "Cluster",
          "Configuration"]
KEYS = "1234567890c"
SCREENS = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light", "has_touch": True, "device_scale_factor": 2},
    "phone-dark": {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True},
}
MODELS = {"llama3.2:3b": 2 * 10**9, "mistral:7b": 4 * 10**9, "llama3.3:70b": 43 * 10**9}
HOSTILE = '<img/src=x/onerror=document.title="owned">'
IGNORED = ("the server responded with a status of", "net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING",
           "net::ERR_CONNECTION_RESET", "net::ERR_EMPTY_RESPONSE")


ROUTES = "routes: [{ name: all, match: { path: / }, upstream: fleet }]"
# With quotas, and routes that keep answers; KEYS_FILE and WEB are put in.
KEPT = """routes:
  - { name: about, match: { path: /api/version }, upstream: web, auth: none, cache: { default_ttl: 1h, scope: shared } }
  - { name: texts, match: { path: /api/embed }, upstream: fleet, auth: optional, embeddings_cache: { scope: shared } }
  - { name: all, match: { path: / }, upstream: fleet, auth: optional }
auth: { keys_file: "KEYS_FILE" }
quotas:
  - { name: daily, key: api_key, limit: 1K, every: day }
  - { name: house, key: all, limit: 20, every: month, beyond: warn }
  - { name: teams, key: "header:x-team", limit: 1M, every: hour }
"""
WEB = '  web: {{ kind: http, servers: [{{ name: web, url: "{}" }}] }}'


def yaml(hosts, names, begin=ROUTES):
    line = '      - {{ name: "{}", url: "{}", max_in_flight: 2, gpu: {{ memory: 400GB }} }}'
    return "\n".join([
        begin,
        "upstreams:",
        "  fleet:",
        "    kind: ollama",
        "    inventory: { interval: 1s }",
        "    health: { active: { interval: 1s, timeout: 1s, healthy: 1, unhealthy: 2 } }",
        "    queue: { timeout: 10m }",
        "    servers:",
        *[line.format(name, host.url) for name, host in zip(names, hosts)],
        *([WEB.format(hosts[0].url)] if "upstream: web" in begin else []),
    ])


class Scene:
    """A pretended fleet, Arriero before it, and a browser."""

    def __init__(self, world, name, hosts, names, token=None, begin=ROUTES):
        self.world = world
        self.hosts = Hosts(hosts)
        self.names = names
        self.directory = os.path.join(world.directory, f"dashboard-{name}")
        os.makedirs(self.directory)
        keys_file = os.path.join(self.directory, "keys.yaml")
        self.text = yaml(self.hosts.hosts, self.names, begin.replace("KEYS_FILE", keys_file))
        self.key = self.new_key(keys_file) if keys_file in self.text else None
        self.front = self.begin(token)
        self.playwright = sync_playwright().start()
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        expect(program, "no Chromium: scripts/ensure.sh chromium installs it")
        arguments = ["--no-sandbox", "--no-proxy-server", "--disable-background-networking", "--disable-component-update"]
        # By this its processes are known.
        self.mark = f"ARRIERO_SCENE={self.directory}".encode()
        environment = dict(os.environ) | {"ARRIERO_SCENE": self.directory}
        self.browser = self.playwright.chromium.launch(executable_path=program, args=arguments, env=environment)
        self.complaints = []
        self.requested = set()

    def begin(self, token):
        """Arriero before the hosts; `token` is the path of a token file."""

        class Ours(Front):
            def save(self, text):
                with_token = f'admin: {{ token_file: "{token}", address:'
                super().save(text.replace("admin: { address:", with_token) if token else text)

        return self.world.keep(Ours(self.world.binary, "front", self.directory, self.text))

    def new_key(self, file):
        """The API key of alice, who has 20 tokens of the quota `daily`."""
        command = [self.world.binary, "key", "new", "alice", "--file", file, "--quota", "daily=20"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return re.search(r"ak_\w+", told.stdout + told.stderr).group()

    def restart(self):
        """Starts Arriero once more, at the same addresses."""
        command = [self.world.binary, "run", "-c", self.front.config]
        self.front.process = Process("front", command, self.directory, dict(os.environ))
        self.world.processes.append(self.front.process)

    def browser_processes(self):
        """The processes of the browser: the one that was started with our mark, and all that descend from it."""
        parents, found = {}, set()
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/environ", "rb") as file:
                parents[int(entry)] = int(stat.read().rsplit(")", 1)[1].split()[1])
                if self.mark in file.read():
                    found.add(int(entry))
        while more := {process for process, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def page(self, screen="light", **more):
        page = self.browser.new_context(**SCREENS[screen], **more).new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda told: self.complain(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complain(str(error)))
        page.on("request", lambda request: self.requested.add(request.url.split("/", 3)[2]) if request.url.startswith("http") else None)
        return page

    def complain(self, text):
        if not any(words in text for words in IGNORED):
            self.complaints.append(text)

    def visit(self, page, view):
        page.goto(f"{self.front.admin}/#/{view}")
        see(page.locator("#status")).not_to_have_text("connecting")
        see(page.get_by_text("Waiting for the first numbers…")).to_have_count(0)

    def overview(self):
        return fetch_json(self.front.admin + "/api/orchestrator/overview")

    def server(self, name):
        server, = [one for one in self.overview()["servers"] if one["id"] == name]
        return server

    def order(self, path, body=None, method="POST"):
        request = urllib.request.Request(
            f"{self.front.admin}/api/orchestrator{path}", json.dumps(body or {}).encode(), method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def call(self, path, body=None, **fields):
        """The status and the body of an answer to a client."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.front.url + path, data, {name.replace("_", "-"): text for name, text in fields.items()})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def ask(self, model, number=1):
        """Sends requests and does not wait for their answers."""
        def one():
            body = json.dumps({"model": model, "prompt": "a secret word"}).encode()
            with contextlib.suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(urllib.request.Request(self.front.url + "/api/generate", body), timeout=600).read()
        for _ in range(number):
            threading.Thread(target=one, daemon=True).start()

    def close(self):
        with contextlib.suppress(Exception):
            self.browser.close()
        with contextlib.suppress(Exception):
            self.playwright.stop()
        self.front.process.stop()
        self.hosts.stop()


@contextlib.contextmanager
def scene(world, name, hosts=None, names=None, token=None, begin=ROUTES):
    hosts = hosts or [Host(MODELS, ["llama3.2:3b"]), Host(MODELS), Host({"mistral:7b": MODELS["mistral:7b"]})]
    names = names or ["one", "two", "three"][:len(hosts)]
    stage = Scene(world, name, hosts, names, token, begin)
    try:
        yield stage
        expect_equal(stage.complaints, [], "what the browser complained of")
        hosts_asked = {stage.front.admin.split("//")[1]}
        expect(stage.requested <= hosts_asked, f"something was fetched from elsewhere: {stage.requested - hosts_asked}")
    finally:
        stage.close()


def artefacts(world):
    folder = os.environ.get("ARRIERO_ARTEFACTS") or os.path.join(world.cache, "artefacts", "dashboard")
    os.makedirs(folder, exist_ok=True)
    return folder


def axe(world, page, where):
    """Asks axe-core what is wrong; nothing serious may be."""
    with open(os.path.join(world.cache, "node/node_modules/axe-core/axe.min.js")) as file:
        page.evaluate(file.read())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    bad = [f"{one['id']} ({one['impact']}): {one['help']}: {[node['target'] for node in one['nodes'][:3]]}"
           for one in found["violations"] if one["impact"] in ("serious", "critical")]
    expect_equal(bad, [], f"what axe finds in {where}")
    passed = {one["id"] for one in found["passes"]}
    expect("color-contrast" in passed and len(passed) >= 10, f"axe looked at too little in {where}: {passed}")


def dialog(page):
    return page.locator("dialog#confirm")


def confirm(page, **fields):
    """Fills in the dialog that asks, and says yes."""
    for label, text in fields.items():
        field = dialog(page).get_by_label(label.replace("_", " "))
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(text)
        else:
            field.fill(text)
    dialog(page).locator("button[type=submit]").click()
    see(dialog(page)).not_to_be_visible()


