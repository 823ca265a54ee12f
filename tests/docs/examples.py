"""The examples, in earnest: what each README starts is started, what it says to run is run, and what it says to come out does.

In a README, ```sh start has programs that go on, ```sh run what is run one after the other, and ```text after it what that prints, where
`…` stands for anything. Ollama servers are those that `arriero demo` simulates; ports are others than those that the files name.
"""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PATIENCE = 60
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Examples with a test of their own.
OTHERS = {"alerts"}
# Names of Compose's services, by which server of the demo stands in for them.
SERVICES = {"ollama-1:11434": 0, "ollama-2:11434": 1}
APPLICATIONS = ("app:80", "open-webui:8080")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.05)


def answers(port):
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


class Application(http.server.BaseHTTPRequestHandler):
    """What stands for a web application."""

    def do_GET(self):
        body = b"the application\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Demo:
    """The simulated servers of `arriero demo`."""

    def __init__(self, arriero):
        self.process = subprocess.Popen([arriero, "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.servers, lines = [], []
        for line in self.process.stderr:
            lines.append(line)
            found = re.match(r"simulated Ollama server (\S+) at (\S+)", line)
            if found:
                self.servers.append(found[2])
            if line.startswith("listening on"):
                break
        else:
            raise AssertionError(f"arriero demo: {''.join(lines)}")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


class Example:
    """A copy of an example with ports of its own."""

    def __init__(self, folder, work, arriero, servers, application):
        self.folder = shutil.copytree(folder, os.path.join(work, "example"))
        programs = os.path.join(work, "programs")
        os.mkdir(programs)
        for name, program in (("arriero", arriero), ("python3", sys.executable)):
            with open(os.path.join(programs, name), "w") as file:
                file.write(f'#!/bin/sh\nexec "{program}" "$@"\n')
            os.chmod(file.name, 0o755)
        self.addresses = {name: servers[number].split("//")[1] for name, number in SERVICES.items()}
        self.addresses |= {name: application for name in APPLICATIONS}
        self.ports, self.running = {}, []
        for place, _, names in os.walk(self.folder):
            for name in names:
                if name.endswith((".md", ".yaml", ".py", ".conf")):
                    self.adapt(os.path.join(place, name))
        # Any picture will do.
        with open(os.path.join(self.folder, "picture.jpg"), "wb") as file:
            file.write(os.urandom(3 << 20))
        self.environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | {
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "VISION_SERVER": servers[1].split("//")[1], "TEXT_SERVER": servers[0].split("//")[1],
        } | {f"OLLAMA_{number}": url for number, url in enumerate(servers, 1)}

    def adapt(self, path):
        with open(path) as file:
            text = file.read()
        for name, address in self.addresses.items():
            text = text.replace(f"//{name}", f"//{address}")
        stand_ins = {address.split(":")[1] for address in self.addresses.values()}

        def other(found):
            port = found[2]
            return found[0] if port in stand_ins else f"127.0.0.1:{self.ports.setdefault(port, free_port())}"

        text = re.sub(r"\b(127\.0\.0\.1|0\.0\.0\.0):(\d{4,5})\b", other, text)
        if path.endswith("arriero.yaml") and "\nadmin:" not in text:
            text += f'\nadmin: {{ address: "127.0.0.1:{self.ports.setdefault("5100", free_port())}" }}\n'
        with open(path, "w") as file:
            file.write(text)

    def start(self, commands):
        for command in commands.splitlines():
            log = open(os.path.join(self.folder, f"program-{len(self.running)}.log"), "wb")
            with log:
                self.running.append(subprocess.Popen(
                    ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True))
            for port in re.findall(r"127\.0\.0\.1:(\d+)", command):
                self.await_program(lambda port=port: answers(int(port)), command)
            if command.startswith("arriero run"):
                self.await_program(self.ready, command)

    def await_program(self, condition, command):
        def done():
            if self.running[-1].poll() is not None:
                raise AssertionError(f"{command} has ended:\n{self.log()}")
            return condition()

        wait_until(done, f"{command} is there:\n{self.log()}")

    def log(self):
        with open(os.path.join(self.folder, f"program-{len(self.running) - 1}.log"), errors="replace") as file:
            return file.read()[-2000:]

    def ready(self):
        """The models of all servers are known, not only those of the first."""
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['5100']}/api/orchestrator/servers", timeout=5) as answer:
                servers = json.load(answer)["servers"]
            return all(server["models"] for server in servers if server["supportsOllama"])
        return False

    def run(self, commands):
        done = subprocess.run(["bash", "-c", commands], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
        return done.stdout

    def stop(self):
        for program in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def check(folder, arriero, servers, application):
    """Does all that the README of an example says; an error, or None."""
    with tempfile.TemporaryDirectory() as work:
        example = Example(folder, work, arriero, servers, application)
        try:
            with open(os.path.join(example.folder, "README.md")) as file:
                blocks = [(words.split(), content) for words, content in FENCE.findall(file.read())]
            if ["sh", "start"] not in [words for words, _ in blocks]:
                config = "arriero.yaml" if os.path.exists(os.path.join(example.folder, "arriero.yaml")) else "arriero/arriero.yaml"
                example.start(f"arriero run -c {config}")
            ran = False
            for index, (words, content) in enumerate(blocks):
                if words == ["sh", "start"]:
                    example.start(content)
                elif words == ["sh", "run"]:
                    ran = True
                    printed = example.run(content)
                    after = blocks[index + 1] if index + 1 < len(blocks) else ([], "")
                    if after[0] == ["text"] and not matches(printed, after[1]):
                        return f"{content}\nshould print\n{after[1]}\nand printed\n{printed}\n{example.log() if example.running else ''}"
            return None if ran else "nothing in its README is run"
        except (AssertionError, subprocess.SubprocessError) as error:
            return str(error)
        finally:
            example.stop()


def matches(printed, wanted):
    """Whether lines are as wanted; `…` stands for anything, on a line of its own for any lines."""
    pattern = "".join("(?s:.*)" if line == "…\n" else re.escape(line).replace("…", ".*") for line in wanted.splitlines(keepends=True))
    return re.fullmatch(pattern, printed) is not None


def check_all(root, arriero, result):
    """Tells `result` of each example."""
    folder = os.path.join(root, "examples")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    application = f"127.0.0.1:{server.server_port}"
    try:
        for name in sorted(set(os.listdir(folder)) - OTHERS):
            # Each example finds servers without a model in memory.
            demo = Demo(arriero)
            try:
                result(f"examples/{name}: does what its README says", check(os.path.join(folder, name), arriero, demo.servers, application))
            finally:
                demo.stop()
    finally:
        server.shutdown()
