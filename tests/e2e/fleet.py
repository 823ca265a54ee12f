"""The processes of the suite: real Ollama servers, and Arriero in front of them."""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

from checks import wait_until

TEMPLATE = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A program with its output in a file, ended by its own process group."""

    def __init__(self, name, command, directory, env):
        self.name = name
        self.log_path = os.path.join(directory, f"{name}.log")
        self.log_file = open(self.log_path, "ab")
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=subprocess.STDOUT,
            env=env, cwd=directory, start_new_session=True)

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def running(self):
        return self.child.poll() is None

    def stop(self, seconds=10):
        if self.running():
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        # What is left of the group: a server that did not listen, and the runners of one that crashed.
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        self.log_file.close()


class Ollama:
    """One `ollama serve` with a model store of its own."""

    def __init__(self, name, cache, directory, **settings):
        self.name = name
        self.directory = directory
        self.settings = settings
        self.home = os.path.join(directory, name)
        os.makedirs(self.home)
        self.created = int(time.time()) - 3600
        self.binary = os.path.join(cache, "ollama", "bin", "ollama")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.libraries = ":".join(os.path.join(cache, "ollama", part) for part in ("bin", "venv/lib"))
        self.start()

    def start(self):
        """Starts it, at the same address each time."""
        self.process = Process(self.name, [self.binary, "serve"], self.directory, self.env(self.url))
        wait_until(lambda: fetch(self.url + "/api/version"), 30, f"{self.name} answers")

    def env(self, host):
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        return kept | self.settings | {
            "HOME": self.home,
            "LD_LIBRARY_PATH": self.libraries,
            "OLLAMA_HOST": host,
            "OLLAMA_KEEP_ALIVE": "30m",
            "OLLAMA_MODELS": os.path.join(self.home, "models"),
            "OLLAMA_NOPRUNE": "1",
            "OLLAMA_NUM_GPU": "0",  # this build would offload every layer by default
        }

    def cli(self, *arguments, host=None, seconds=60):
        """Runs the `ollama` command line against `host`, this server by default."""
        return subprocess.run(
            [self.binary, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=self.env(host or self.url), timeout=seconds)

    def create(self, model, gguf):
        modelfile = os.path.join(self.home, "Modelfile")
        with open(modelfile, "w") as file:
            # Random weights seldom say that they are done: without a limit `ollama run` would go on for minutes.
            # One thread, since several spin while they wait for each other: on busy cores a token would take long.
            file.write(f'FROM {gguf}\nTEMPLATE """{TEMPLATE}"""\nPARAMETER num_predict 24\nPARAMETER num_thread 1\n')
        result = self.cli("create", model, "-f", modelfile)
        if result.returncode != 0:
            raise RuntimeError(f"ollama create {model}: {result.stderr}\n{self.process.log()[-2000:]}")
        # Ollama lists the newest first, by whole seconds, and those of one second in any order.
        self.created += 10
        os.utime(self.manifest(model), (self.created, self.created))

    def manifest(self, model):
        path, = glob.glob(os.path.join(self.home, "models/manifests/*/library", *model.split(":")))
        return path

    def runner(self, model):
        """The number of the process that runs a model; None when there is none."""
        with open(self.manifest(model)) as file:
            layers = json.load(file)["layers"]
        weights, = [layer["digest"] for layer in layers if layer["mediaType"].endswith(".image.model")]
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path) as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
                with open(os.path.join(os.path.dirname(path), "cmdline")) as file:
                    command = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if parent == self.process.child.pid and weights.replace(":", "-") in command:
                return int(path.split("/")[2])
        return None

    def loaded(self):
        return {model["name"] for model in fetch_json(self.url + "/api/ps")["models"]}

    def requests(self, method, path):
        """How many requests of this kind the server has finished, by its own log."""
        return sum(1 for line in self.process.log().splitlines()
                   if line.startswith("[GIN]") and line.split("|")[-1].split() == [method, f'"{path}"'])


class Arriero:
    """`arriero run` with a generated file."""

    def __init__(self, binary, name, directory, servers):
        self.folder = os.path.join(directory, name)
        os.makedirs(self.folder)
        self.config = os.path.join(self.folder, "arriero.yaml")
        self.port = free_port()
        self.admin_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self.write(servers)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OLLAMA_")}
        self.process = Process(name, [binary, "run", "-c", self.config], directory, kept)

        def ready():
            if not self.process.running():
                raise SystemExit(f"arriero exited with {self.process.child.returncode}:\n{self.process.log()}")
            return fetch(self.admin + "/health/ready") is not None

        wait_until(ready, 60, f"{name} is ready")

    def write(self, servers):
        """Writes the file anew, as an editor does: a new file beside it, renamed over it."""
        lines = [
            "version: 1",
            f'listeners: [{{ address: "127.0.0.1:{self.port}" }}]',
            f'admin: {{ address: "127.0.0.1:{self.admin_port}" }}',
            "routes: [{ name: all, match: { path: / }, upstream: fleet }]",
            "upstreams:",
            "  fleet:",
            "    kind: ollama",
            "    inventory: { interval: 1s }",
            "    health: { active: { interval: 1s, timeout: 2s, healthy: 1, unhealthy: 2 } }",
            "    servers:",
            *[f'      - {{ name: {name}, url: "{url}" }}' for name, url in servers.items()],
        ]
        self.save("\n".join(lines) + "\n")

    def save(self, text):
        with open(self.config + ".new", "w") as file:
            file.write(text)
        os.replace(self.config + ".new", self.config)


class Front(Arriero):
    """`arriero run` with routes of a check's own; `scheme` is that of its listener."""

    def __init__(self, binary, name, directory, text, listener="", scheme="http"):
        self.listener = listener
        super().__init__(binary, name, directory, text)
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def write(self, text):
        """Writes the file anew with these routes and upstreams."""
        listeners = f'listeners: [{{ address: "127.0.0.1:{self.port}"{self.listener} }}]'
        admin = f'admin: {{ address: "127.0.0.1:{self.admin_port}" }}'
        self.save("\n".join(["version: 1", listeners, admin, text]) + "\n")

    def reloads(self):
        """How often a changed file came into force."""
        text = fetch(self.admin + "/metrics").decode()
        lines = [line for line in text.splitlines() if line.startswith('arriero_config_reloads_total{result="applied"}')]
        return int(float(lines[0].split()[-1])) if lines else 0

    def reload(self, text):
        """Writes the file anew and waits until it is in force."""
        before = self.reloads()
        self.write(text)
        wait_until(lambda: self.reloads() > before, 10, "the new file is in force")


class World:
    """What the checks see: servers `a` and `b`, Arriero `fleet` before both, `solo` before `a` alone."""

    def __init__(self, binary, cache):
        self.cache = cache
        self.binary = binary
        self.processes = []
        self.directory = tempfile.mkdtemp(prefix="arriero-e2e-")

    def start(self):
        gguf = os.path.join(self.cache, "model", "tiny.gguf")
        self.a = self.keep(Ollama("a", self.cache, self.directory))
        self.b = self.keep(Ollama("b", self.cache, self.directory))
        for server, models in ((self.a, ["tiny:1", "both:1"]), (self.b, ["tiny:2", "both:1"])):
            for model in models:
                server.create(model, gguf)
        self.solo = self.keep(Arriero(self.binary, "solo", self.directory, {"a": self.a.url}))
        self.fleet = self.keep(Arriero(
            self.binary, "fleet", self.directory, {"a": self.a.url, "b": self.b.url}))
        wanted = {"tiny:1", "tiny:2", "both:1"}
        for front, models in ((self.solo, {"tiny:1", "both:1"}), (self.fleet, wanted)):
            wait_until(lambda front=front, models=models: names(front.url) == models, 20,
                       f"/api/tags of Arriero names {sorted(models)}")

    def keep(self, owner):
        self.processes.append(owner.process)
        return owner

    def stop(self, show_logs):
        for process in reversed(self.processes):
            process.stop()
        if show_logs:
            for process in self.processes:
                print(f"--- last lines of {process.name}.log\n" + "\n".join(process.log().splitlines()[-25:]))
        shutil.rmtree(self.directory, ignore_errors=True)


def fetch(url, seconds=10):
    with urllib.request.urlopen(url, timeout=seconds) as answer:
        return answer.read()


def fetch_json(url):
    return json.loads(fetch(url))


def names(url):
    return {model["name"] for model in fetch_json(url + "/api/tags")["models"]}


def processor_time(process):
    """Hundredths of a second that a process has used."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
