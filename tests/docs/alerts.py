"""The example of alerts, in earnest: Arriero tells the receiver of the example that a server is down."""

import os
import subprocess
import sys
import tempfile
import threading

PATIENCE = 30


class Lines:
    """What a program prints, line by line, with a limit on the waiting."""

    def __init__(self, process):
        self.lines, self.changed = [], threading.Condition()
        threading.Thread(target=self.read, args=(process.stdout,), daemon=True).start()

    def read(self, stream):
        for line in stream:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()

    def first(self, begin):
        find = lambda: next((line for line in self.lines if line.startswith(begin)), None)
        with self.changed:
            self.changed.wait_for(lambda: find() is not None, PATIENCE)
            return find()


def check(root, arriero):
    """An error, or None."""
    example = os.path.join(root, "examples", "alerts")
    with tempfile.TemporaryDirectory() as folder:
        secret = os.path.join(folder, "secret")
        with open(secret, "w") as file:
            file.write("a-token-of-more-than-thirty-two-characters\n")
        with open(os.path.join(example, "arriero.yaml")) as file:
            text = file.read()
        text = text.replace("/run/secrets/arriero_alerts", secret).replace("127.0.0.1:8080", "127.0.0.1:0")
        text = text.replace("interval: 5s, timeout: 2s, unhealthy: 3", "interval: 100ms, timeout: 2s, unhealthy: 1")
        config = os.path.join(folder, "arriero.yaml")
        with open(config, "w") as file:
            file.write(text + "admin: { address: \"127.0.0.1:0\" }\n")
        programs = []
        try:
            receiver = subprocess.Popen([sys.executable, os.path.join(example, "receiver.py"), secret, "0"],
                                        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            programs.append(receiver)
            told = Lines(receiver)
            url = told.first("http://")
            if url is None:
                return "the receiver does not start"
            # Nobody listens on this port.
            environment = os.environ | {"OLLAMA_1": "http://127.0.0.1:9", "ALERTS_URL": url}
            programs.append(subprocess.Popen([arriero, "run", "-c", config], env=environment, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            down = told.first("server_down\tfleet/a100-1\t")
            return None if down else f"the receiver was not told: {told.lines}"
        finally:
            for program in programs:
                program.kill()
                program.wait()
