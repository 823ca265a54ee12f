"""A real Prometheus and a real Alertmanager with the files of conf/, before an Arriero that has something to tell: every query of
every rule and dashboard finds series, and what is wrong is told."""

import asyncio
import contextlib
import glob
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from checks import check, expect, expect_equal, wait_until
from fleet import Front, Process, fetch, fetch_json, free_port
from pretend import Host, Hosts

CONF = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "conf")
GOOD, BROKEN = "llama3.2:3b", "broken:1"
# What must fire at once when a recovery action is given up, a load fails and a webhook cannot be reached.
FIRES = {"ArrieroRecoveryGaveUp", "ArrieroModelLoadsFail", "ArrieroNotificationsFail"}
# A metric, perhaps with matchers.
SELECTOR = re.compile(r"\b(?:up|ALERTS|(?:arriero|process)[a-z_]*(?::[a-z0-9_]+)*)\b(?:\{[^}]*\})?")


# An exporter of NVIDIA's, in the words of DCGM's.
EXPORTER = """\
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{{{card}}} 8192
DCGM_FI_DEV_FB_FREE{{{card}}} 32768
DCGM_FI_DEV_GPU_UTIL{{{card}}} 40
DCGM_FI_DEV_GPU_TEMP{{{card}}} 61
DCGM_FI_DEV_POWER_USAGE{{{card}}} 250.5
DCGM_FI_DEV_ROW_REMAP_FAILURE{{{card}}} {failed}
"""


class Fleet(Hosts):
    """Pretended servers on which one model never goes well; one page fails on the first and is slow on the others. The first has
    a card of which an exporter tells."""

    failed = 0

    async def answer(self, host, writer, method, path, body):
        if path == "/metrics":
            card = 'gpu="0",UUID="GPU-1",modelName="NVIDIA A100"'
            return await self.send(writer, 200, EXPORTER.format(card=card, failed=self.failed))
        if path == "/page" and host is self.hosts[0]:
            return await self.send(writer, 500, "no page")
        if path == "/page":
            await asyncio.sleep(0.5)
            return await self.send(writer, 200, "a page")
        return await super().answer(host, writer, method, path, body)

    async def infer(self, host, writer, body):
        if "input" in body:
            answer = {"model": GOOD, "embeddings": [[1] for _ in body["input"]]}
            return await self.send(writer, 200, json.dumps(answer, separators=(",", ":")))
        if body.get("model") == BROKEN:
            return await self.send(writer, 500, {"error": "llama runner process has terminated"})
        return await super().infer(host, writer, body)


def routes(one, two, closed, directory, redis):
    """Servers that are well, one that nobody has started, and limits that are soon reached."""
    return f"""routes:
  - name: limited
    match: {{ path: /api/version }}
    upstream: fleet
    rate_limits: [{{ key: client_ip, rate: 1/s, burst: 1 }}]
  - name: models
    match: {{ path: [/api/, /v1/] }}
    upstream: fleet
    embeddings_cache: {{}}
  - name: web
    upstream: web
    cache: {{}}
    retry: {{ attempts: 3, on: [connect, 5xx] }}
upstreams:
  fleet:
    kind: ollama
    inventory: {{ interval: 1s }}
    health: {{ active: {{ interval: 1s, timeout: 1s, healthy: 1, unhealthy: 1 }} }}
    recovery: {{ interval: 1s, quiet: 0s, timeout: 2s }}
    circuit: {{ consecutive_failures: 2, min_requests: 2 }}
    servers:
      - {{ name: one, url: "{one.url}", gpu: {{ exporter: "{one.url}/metrics", interval: 1s }} }}
      - {{ name: two, url: "{two.url}", max_in_flight: 8 }}
      - name: gone
        url: "http://127.0.0.1:{closed}"
        recovery: {{ exec: ["false"], after: 1, max_attempts: 1, verify: 1s }}
  web:
    kind: http
    servers: [{{ name: gone, url: "http://127.0.0.1:{closed}" }}, {{ name: bad, url: "{one.url}" }}, {{ name: slow, url: "{two.url}" }}]
notifications: [{{ url: "http://127.0.0.1:{closed}", attempts: 1, timeout: 1s }}]
quotas: [{{ name: daily, key: all, limit: 1G, every: day }}]
server: {{ data_dir: {directory}/data }}
cluster: {{ redis: "redis://127.0.0.1:{redis}" }}
"""


def certificate(directory):
    """Files of a certificate of its own making: (certificate, key)."""
    files = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1]],
                   check=True, capture_output=True)
    return files


class Traffic:
    """Requests of many kinds, again and again until it is stopped."""

    def __init__(self, front):
        self.front, self.over = front, threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(work,), daemon=True)
                        for work in (self.good, self.wrong, self.crowd, self.order, *[self.web] * 4)]
        for thread in self.threads:
            thread.start()

    def run(self, work):
        while not self.over.wait(0.1):
            with contextlib.suppress(OSError, http.client.HTTPException):
                work()

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(self.front.url + path, data), timeout=10).read()

    def good(self):
        self.ask("/api/chat", {"model": GOOD, "messages": [{"role": "user", "content": "Hello"}]})
        self.ask("/api/version")
        self.ask("/api/embed", {"model": GOOD, "input": ["Hello", "world"]})

    def wrong(self):
        self.ask("/api/chat", {"model": BROKEN, "messages": [{"role": "user", "content": "Hello"}]})
        self.ask("/api/chat", {"model": "nobody-has:1", "messages": []})
        with socket.create_connection(("127.0.0.1", self.front.port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.recv(100)

    def order(self):
        """An operator takes a model out of memory again and again, and the next request brings it back."""
        unload = urllib.request.Request(f"{self.front.admin}/api/orchestrator/models/{GOOD}/unload", b'{"force":true}',
                                        {"Content-Type": "application/json"})
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(unload, timeout=10).read()
        self.over.wait(2)

    def web(self):
        self.ask("/page")  # of its servers one is gone, one fails and one is slow: more want to try again than may

    def crowd(self):
        """More connections than a client may have."""
        clients = []
        try:
            for _ in range(50):
                clients.append(socket.create_connection(("127.0.0.1", self.front.port), timeout=5))
            self.over.wait(0.5)
        finally:
            for client in clients:
                client.close()
            self.over.wait(2)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(30)


class Watch:
    """Prometheus and Alertmanager with the shipped files; only addresses and intervals are others."""

    def __init__(self, world, directory, front):
        for folder in ("prometheus", "alertmanager"):
            shutil.copytree(os.path.join(CONF, folder), os.path.join(directory, folder))
        ports = {"alertmanager:9093": free_port(), "localhost:9090": free_port()}
        path = os.path.join(directory, "prometheus", "prometheus.yml")
        with open(path) as file:
            text = file.read()
        for name, port in ports.items() | {("arriero:5100", front.admin_port)}:
            expect(name in text, f"{name} is not in prometheus.yml")
            text = text.replace(name, f"127.0.0.1:{port}")
        text = re.sub(r"(scrape_interval|evaluation_interval): 15s", r"\1: 1s", text)
        with open(path, "w") as file:
            file.write(text)
        alertmanager, prometheus = ports["alertmanager:9093"], ports["localhost:9090"]
        self.alerts, self.url = f"http://127.0.0.1:{alertmanager}", f"http://127.0.0.1:{prometheus}"
        environment = dict(os.environ)
        self.processes = [
            Process("alertmanager", ["prometheus-alertmanager", f"--web.listen-address=127.0.0.1:{alertmanager}",
                                     "--cluster.listen-address=", f"--storage.path={directory}/alerts",
                                     f"--config.file={directory}/alertmanager/alertmanager.yml"], directory, environment),
            Process("prometheus", ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory}/series",
                                   f"--web.listen-address=127.0.0.1:{prometheus}"], directory, environment)]
        world.processes.extend(self.processes)

    def stop(self):
        for process in self.processes:
            process.stop()

    def api(self, path, **query):
        try:
            text = fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query or path}: {error.read().decode()}") from error
        return json.loads(text)["data"]

    def series(self, query):
        return self.api("query", query=query)["result"]


def queries_of_dashboards():
    """(where, query) with the variables of the dashboards filled in."""
    for path in sorted(glob.glob(os.path.join(CONF, "grafana", "dashboards", "*.json"))):
        with open(path) as file:
            board = json.load(file)
        name = os.path.basename(path)
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", fill(target["expr"])
        for note in board["annotations"]["list"]:
            yield f"{name}: annotation {note['name']}", fill(note["expr"])


def fill(query):
    for variable, value in (("$__rate_interval", "30s"), ("$instance", ".+"), ("$upstream", ".+")):
        query = query.replace(variable, value)
    expect("$" not in query, f"a variable that is not known: {query}")
    return query


def classic(text):
    """OpenMetrics as Prometheus' older format, which `promtool check metrics` reads: there, counters are named with `_total`."""
    counters = set(re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE))
    rename = lambda found: f"# {found[1]} {found[2]}{'_total' if found[2] in counters else ''} "
    return re.sub(r"^# (HELP|TYPE) (\S+) ", rename, text, flags=re.MULTILINE).replace("# EOF\n", "")


@check("Prometheus: each query of the rules and dashboards finds series, and what is wrong is told")
def prometheus(world):
    directory = os.path.join(world.directory, "prometheus-check")
    os.makedirs(directory)
    models = {GOOD: 2 * 10**9, BROKEN: 10**9}
    hosts = Fleet([Host(models, [GOOD]), Host(models)])
    hosts.tokens = 12  # a speed is counted of answers of more than 8
    one, two = hosts.hosts
    port = free_port()
    redis = Process("redis", ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
                    directory, dict(os.environ))
    world.processes.append(redis)
    text = routes(one, two, free_port(), directory, port)
    # Few connections for each client, and a second listener that speaks TLS.
    tls = 'tls: {{ certificates: [{{ cert: "{}", key: "{}" }}] }}'.format(*certificate(directory))
    listener = f', limits: {{ connections_per_ip: 40 }} }}, {{ address: "127.0.0.1:0", {tls}'
    front = world.keep(Front(world.binary, "told", directory, text, listener))
    traffic, watch = Traffic(front), Watch(world, directory, front)
    try:
        observe(front, watch, text, hosts)
    finally:
        traffic.stop()
        watch.stop()
        front.process.stop()
        redis.stop()
        hosts.stop()


def observe(front, watch, text, hosts):
    wait_until(lambda: watch.series('up{job="arriero"} == 1'), 60, "Prometheus reads the metrics")
    expect_equal(len(watch.api("targets")["activeTargets"]), 3, "the number of targets")
    front.reload(text + "# a change\n")
    certificate(os.path.dirname(front.folder))
    wait_until(lambda: watch.series("arriero_gpu_temperature_celsius == 61"), 30, "the card is known")
    hosts.failed = 1  # a part of the memory could not be replaced

    # Dashboards: the query as a panel asks it.
    missing = dict(queries_of_dashboards())
    expect(len(missing) > 60, f"only {len(missing)} queries")

    def answered():
        for place in [place for place, query in missing.items() if watch.series(query)]:
            del missing[place]
        return not missing

    with contextlib.suppress(AssertionError):
        wait_until(answered, 60, "series")
    expect(not missing, "no series for\n  " + "\n  ".join(f"{place}: {query}" for place, query in missing.items()))

    # Rules: all are evaluated, what they record is there, and each metric that an alert looks at exists with its labels.
    groups = watch.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    broken = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    expect_equal(broken, [], "rules that cannot be evaluated")
    absent = [rule["name"] for rule in rules if rule["type"] == "recording" and not watch.series(rule["name"])]
    expect_equal(absent, [], "what is recorded, and is not there")
    wanted = []
    for name in ("rules.yml", "gpu-rules.yml"):
        with open(os.path.join(CONF, "prometheus", name)) as file:
            wanted += [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
    expect_equal(len(rules), len(wanted), "the number of rules")
    unknown = sorted({f"{rule.get('alert') or rule['record']}: {selector}" for rule in wanted
                      for selector in SELECTOR.findall(rule["expr"]) if not watch.series(selector)})
    expect_equal(unknown, [], "metrics that rules look at, and that do not exist")

    # What is wrong is told, in words.
    def firing():
        return {alert["labels"]["alertname"]: alert for alert in watch.api("alerts")["alerts"] if alert["state"] == "firing"}

    wait_until(lambda: FIRES <= firing().keys(), 30, f"alerts fire: {sorted(FIRES)}")
    for name, alert in firing().items():
        for words in alert["annotations"].values():
            expect("<no value>" not in words and "error" not in words, f"{name} says {words!r}")
    expect_equal(firing()["ArrieroRecoveryGaveUp"]["annotations"]["summary"], "gone could not be made well", "the words")
    expect("ArrieroDown" not in firing(), "it is not down")

    def received():
        told = fetch_json(watch.alerts + "/api/v2/alerts")
        return {alert["labels"]["alertname"]: alert["receivers"][0]["name"] for alert in told}

    wait_until(lambda: FIRES <= received().keys(), 30, "Alertmanager has the alerts")
    expect_equal(received()["ArrieroRecoveryGaveUp"], "on-call", "who is told of what is critical")
    expect_equal(received()["ArrieroModelLoadsFail"], "everybody", "who is told of a warning")

    # The metrics themselves, as Prometheus' own tool judges them.
    metrics = classic(fetch(front.admin + "/metrics").decode())
    lint = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, timeout=60)
    expect_equal((lint.returncode, lint.stdout + lint.stderr), (0, ""), "what promtool says of the metrics")
