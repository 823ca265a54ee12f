#!/usr/bin/env python3
"""What being watched, and a full disk, cost the clients: ratios of their 99th percentiles.

    bench/watched.py PATH_OF_ARRIERO [watched|scrapes|events|top|full ...] [--rounds 10] [--seconds 3] [--clients 16] [--together]

Needs nginx and wrk (`apt-get install nginx wrk`) and root: for real-time processes, and to mount a disk that is full. Clients ask
again and again for 425 bytes, through one worker of Arriero that has the last core for itself. Client, server and whoever watches
have the other cores, as has all else that Arriero does; with `--together` that is on the worker's core too, the worst that can be
done to it. Client and server are real-time processes, and the watchers have only the time that is left, so that they take nothing
from the client but what Arriero does for them.

    watched  ten scrapes a second, the events that the dashboard reads, and `arriero top`; also each alone
    full     `data_dir` is on a disk that is full

Rounds with and without it take turns. Printed is the 99th percentile with it divided by the one without: the median over the rounds, the
least and the most; and the same of rounds that are both without, which is what the machine does to two equal things.
"""
import argparse, contextlib, fcntl, json, os, pty, re, statistics, struct, subprocess, sys, tempfile, termios, threading, time, urllib.request

from against import NGINX, OTHERS, PROXY, Process, free

SERVER = """
  server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{small}'; }} }}
"""
YAML = """
version: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
server: {{ threads: 1, data_dir: "{data}" }}
telemetry: {{ access_log: off }}
routes: [{{ name: all, upstream: web }}]
upstreams: {{ web: {{ kind: http, servers: [{{ url: "http://127.0.0.1:{a}" }}] }} }}
"""
SCRAPES = 10
# Whoever else wants the core waits: an ordinary process that wakes up may wait for the next tick, up to 4 ms.
FIRST = ["chrt", "--fifo", "1"]


def p99(port, seconds, clients):
    """The 99th percentile of clients that ask again and again, in microseconds."""
    command = [*FIRST, "wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, set(OTHERS)))
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(done.stdout)
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def idle():
    """Only what nobody else wants of the other cores."""
    os.sched_setaffinity(0, set(OTHERS))
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Watchers:
    """All who watch, as processes of their own; they say how often they saw something."""

    def __init__(self, binary, admin, who):
        self.binary, self.admin, self.who = binary, admin, who

    def __enter__(self):
        environment = {**os.environ, "TERM": "xterm"}
        # As cheap as can be: it is to cost Arriero something, and not the client.
        scrape = f"""
import socket, time
wire = socket.create_connection(("127.0.0.1", {self.admin}))
seen, due = 0, time.monotonic()
while True:
    wire.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    head, _, body = wire.recv(1 << 20).partition(b"\\r\\n\\r\\n")
    left = int(head.lower().partition(b"content-length:")[2].split()[0]) - len(body)
    while left > 0:
        left -= len(wire.recv(1 << 20))
    seen += 1
    print(".", end="", flush=True)
    due = max(due + 1 / {SCRAPES}, time.monotonic())
    time.sleep(max(0, due - time.monotonic()))
"""
        stream = f"http://127.0.0.1:{self.admin}/api/orchestrator/events"
        commands = {
            "scrapes": [sys.executable, "-c", scrape],
            "events": ["curl", "-sN", stream],
            "top": [self.binary, "top", "--admin", f"127.0.0.1:{self.admin}"],
        }
        self.started, self.outputs = [], []
        for command in (commands[one] for one in self.who):
            # A terminal, since `top` wants one; in the same session, or the scheduler would give it time of its own.
            mine, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
            self.started.append(subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environment,
                                                 preexec_fn=idle))
            os.close(theirs)
            self.outputs.append(mine)
        self.seen = [0] * len(self.started)
        self.readers = [threading.Thread(target=self.read, args=(place,), daemon=True) for place in range(len(self.started))]
        for reader in self.readers:
            reader.start()
        deadline = time.monotonic() + 10
        while not all(self.seen):
            if time.monotonic() > deadline:
                sys.exit(f"a watcher sees nothing: {self.seen}")
            time.sleep(0.05)
        self.seen = [0] * len(self.started)
        return self

    def read(self, place):
        with contextlib.suppress(OSError):
            while piece := os.read(self.outputs[place], 1 << 16):
                self.seen[place] += piece.count(b".") if self.who[place] == "scrapes" else piece.count(b"event: ") or 1

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.wait()
        for output in self.outputs:
            os.close(output)


class Full:
    """A disk without room."""

    def __init__(self, folder):
        self.filler = os.path.join(folder, "filler")

    def __enter__(self):
        with contextlib.suppress(OSError), open(self.filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def __exit__(self, *_):
        os.unlink(self.filler)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("arriero")
    arguments.add_argument("scenes", nargs="*", metavar="scene", help="watched, scrapes, events, top, full")
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--seconds", type=int, default=3)
    arguments.add_argument("--clients", type=int, default=16)
    arguments.add_argument("--together", action="store_true", help="all of Arriero on one core")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        data = os.path.join(folder, "data")
        os.mkdir(data)
        if "full" in arguments.scenes or not arguments.scenes:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "arriero-bench", data], check=True)
            ends.callback(lambda: subprocess.run(["umount", "-l", data]))
        ports = {name: free() for name in ("a", "port", "admin")}

        def start(name, text, command, cores):
            path = os.path.join(folder, name)
            with open(path, "w") as file:
                file.write(text)
            process = Process([*command, path], cores)
            ends.callback(process.end)
            return process

        small = json.dumps({"models": ["x" * 410]})
        server = SERVER.format(port=ports["a"], small=small)
        start("nginx.conf", NGINX.format(folder=folder, http=server), [*FIRST, "nginx", "-e", "stderr", "-c"], OTHERS)
        cores = [PROXY] if arguments.together else OTHERS
        arriero = start("arriero.yaml", YAML.format(**ports, data=data), [arguments.arriero, "run", "-c"], cores)
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ports['port']}/", timeout=5).read()
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit("Arriero does not answer")
                time.sleep(0.05)
        arriero.pin("data", PROXY)
        all_of_them = ["scrapes", "events", "top"]
        scenes = {one: lambda one=one: Watchers(arguments.arriero, ports["admin"], [one]) for one in all_of_them}
        scenes["watched"] = lambda: Watchers(arguments.arriero, ports["admin"], all_of_them)
        scenes["full"] = lambda: Full(data)
        p99(ports["port"], arguments.seconds, arguments.clients)
        for scene in arguments.scenes or ["watched", "full"]:
            ratios, same, seen = [], [], []
            for turn in range(arguments.rounds):
                without = p99(ports["port"], arguments.seconds, arguments.clients)
                with scenes[scene]() as watchers:
                    ratios.append(p99(ports["port"], arguments.seconds, arguments.clients) / without)
                    if watchers:
                        seen.append([number / arguments.seconds for number in watchers.seen])
                same.append(p99(ports["port"], arguments.seconds, arguments.clients) / without)
            shown = [f"{statistics.median(one):.3f} ({min(one):.2f} to {max(one):.2f})" for one in (ratios, same)]
            print(f"{scene:8} {shown[0]}, without and without {shown[1]}; the last took {without:.0f} us", flush=True)
            if seen:
                middle = [f"{statistics.median(one):.0f}" for one in zip(*seen)]
                print(f"         what they saw each second: {', '.join(middle)}")


if __name__ == "__main__":
    main()
