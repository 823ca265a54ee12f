#!/usr/bin/env python3
"""What a request costs through Arriero and through nginx: ratios of processor time and of throughput.

    bench/against.py PATH_OF_ARRIERO [small|model|stream ...] [--rounds 5] [--seconds 4] [--cluster]

Needs nginx and wrk (`apt-get install nginx wrk`), and redis-server for `--cluster`, which measures Arriero as one of three
instances by Arriero alone, instead of Arriero by nginx. Both proxies run with one worker on the last core, one after the other in
each round; client and servers have the other cores. The servers are an nginx with the answers of Ollama servers that have the models a
and b, and a small program that streams tokens.

    small    GET, 425 bytes back, 32 connections
    model    POST /api/chat of 1 KB, 64 connections, one model on each of two servers. Arriero reads the model from the body; nginx
             cannot, and is told in a field
    stream   POST /api/chat, 100 lines 20 ms apart, 100 connections; per byte of them

Printed is one divided by the other: the median over the rounds, and the least and the most. Times themselves say more about the
machine than about either.
"""
import argparse, asyncio, contextlib, json, os, re, socket, statistics, subprocess, sys, tempfile, time, urllib.request

from play import CORES, Player

PROXY, OTHERS = CORES[-1], CORES[:-1] or CORES
LINES, GAP = 100, 0.02
FILLING = "Why is the sky blue? " * 45
CONNECTIONS = {"small": 32, "model": 64, "stream": 100}

NGINX = """
daemon off; worker_processes 1; error_log stderr error; pid {folder}/nginx.pid; master_process off;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 100m; keepalive_requests 1000000000;
  {http}
}}
"""
SERVER = """
  server {{
    listen 127.0.0.1:{port}; default_type application/json;
    location = /small {{ return 200 '{small}'; }}
    location = /api/version {{ return 200 '{{"version":"0.9.3"}}'; }}
    location = /api/tags {{ return 200 '{{"models":[{model}]}}'; }}
    location = /api/ps {{ return 200 '{{"models":[{model}]}}'; }}
    location = /api/chat {{ return 200 '{{"model":"{name}","done":true,"message":{{"role":"assistant","content":"{name}"}}}}'; }}
  }}
"""
PROXIED = """
  upstream a {{ server 127.0.0.1:{a}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream b {{ server 127.0.0.1:{b}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream s {{ server 127.0.0.1:{s}; keepalive 1024; keepalive_requests 1000000000; }}
  map $http_x_model $group {{ b b; s s; default a; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://$group; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 600s;
    }}
  }}
"""
YAML = """
version: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "unix:{folder}/admin.{port}" }}
{more}
server: {{ threads: 1 }}
telemetry: {{ access_log: off }}
routes:
  - {{ name: small, match: {{ path: /small }}, upstream: web }}
  - {{ name: ollama, upstream: fleet }}
upstreams:
  web: {{ kind: http, servers: [{{ url: "http://127.0.0.1:{a}" }}] }}
  fleet:
    kind: ollama
    keepalive: {{ max_idle: 1024 }}
    servers: [{{ url: "http://127.0.0.1:{a}" }}, {{ url: "http://127.0.0.1:{b}" }}, {{ url: "http://127.0.0.1:{s}" }}]
"""
WRK = """
local bodies = {{ {bodies} }}
local names = {{ {names} }}
local next = 0
request = function()
  next = next % #names + 1
  return wrk.format("POST", "/api/chat", {{ ["Content-Type"] = "application/json", ["X-Model"] = names[next] }}, bodies[next])
end
"""


def model(name):
    """A model as Ollama lists it."""
    return json.dumps({"name": f"{name}:latest", "model": f"{name}:latest", "size": 1, "size_vram": 1, "digest": name * 64})


async def tokens(stage):
    """A server that has the model s and answers a chat with lines; says its port."""
    line = b'{"model":"s","message":{"role":"assistant","content":"word "},"done":false}\n'
    piece = b"%x\r\n%s\r\n" % (len(line), line)
    lists = f'{{"models":[{model("s")}]}}'.encode()

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if head.startswith(b"POST"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for _ in range(LINES):
                        writer.write(piece)
                        # Fails when the client has left.
                        await writer.drain()
                        await asyncio.sleep(GAP)
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(lists), lists))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    stage.say(listening.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A program on its core, ended by its id."""

    def __init__(self, command, cores):
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                        preexec_fn=lambda: os.sched_setaffinity(0, set(cores)))
        os.set_blocking(self.process.stderr.fileno(), False)

    def seconds(self):
        """Processor time of all its threads, to the nanosecond."""
        folder = f"/proc/{self.process.pid}/task"
        return sum(int(open(f"{folder}/{task}/schedstat").read().split()[0]) for task in os.listdir(folder)) / 1e9

    def pin(self, name, core):
        """Puts the threads of a name on a core."""
        folder = f"/proc/{self.process.pid}/task"
        found = [int(task) for task in os.listdir(folder) if open(f"{folder}/{task}/comm").read().strip() == name]
        assert found, f"there is no thread `{name}`"
        for task in found:
            os.sched_setaffinity(task, {core})

    def end(self):
        self.process.kill()
        self.process.wait()


def ask(port, path="/small", name=None):
    body = json.dumps({"model": name, "stream": False, "messages": []}).encode() if name else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers={"X-Model": name or "a"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode()


def answers(port):
    """Waits until a proxy sends each model to the server that has it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            assert ask(port) and all(f'"content":"{name}"' in ask(port, "/api/chat", name) for name in "ab")
            return
        except (OSError, AssertionError):
            if time.monotonic() > deadline:
                sys.exit(f"the proxy at port {port} does not answer as it should")
            time.sleep(0.05)


def wrk(port, scene, seconds, folder):
    """What came back: requests, of streams bytes, for some are open when the time is over."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS[scene]}", f"-d{seconds}s", "--timeout", "30s"]
    if scene != "small":
        names = ["s"] if scene == "stream" else ["a", "b"]
        script = os.path.join(folder, f"{scene}.lua")
        bodies = [json.dumps({"model": name, "messages": [{"role": "user", "content": FILLING}]}) for name in names]
        with open(script, "w") as file:
            file.write(WRK.format(bodies=", ".join(f"[[{body}]]" for body in bodies), names=", ".join(f'"{name}"' for name in names)))
        command += ["-s", script]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}/small"], capture_output=True, text=True, check=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, set(OTHERS)))
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(done.stdout)
    requests, read, unit = re.search(r"(\d+) requests in .*, ([\d.]+)([KMG]?)B read", done.stdout).groups()
    return int(requests) if scene != "stream" else float(read) * 1024 ** " KMG".index(unit or " ")


def measure(proxy, port, scene, seconds, folder):
    """Processor time of a request or a byte, and how many of them come in a second."""
    wrk(port, scene, 1, folder)
    before, began = proxy.seconds(), time.monotonic()
    count = wrk(port, scene, seconds, folder)
    return (proxy.seconds() - before) / count, count / (time.monotonic() - began)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("arriero")
    arguments.add_argument("scenes", nargs="*", metavar="scene", help=", ".join(CONNECTIONS))
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=4)
    arguments.add_argument("--cluster", action="store_true")
    arguments = arguments.parse_args()
    scenes = arguments.scenes or list(CONNECTIONS)
    if unknown := set(scenes) - set(CONNECTIONS):
        sys.exit(f"no such scene: {', '.join(unknown)}")
    one, other = ("cluster", "alone") if arguments.cluster else ("arriero", "nginx")
    ports = {name: free() for name in ("a", "b", "redis", one, other)}
    started = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        def write(name, text):
            path = os.path.join(folder, name)
            with open(path, "w") as file:
                file.write(text)
            return path

        def start(command, cores):
            started.append(Process(command, cores))
            ends.callback(started[-1].end)
            return started[-1]

        ports["s"] = Player(tokens, core=OTHERS[0]).hear()
        small = json.dumps({"models": ["x" * 410]})
        servers = "".join(SERVER.format(port=ports[name], name=name, model=model(name), small=small) for name in "ab")
        start(["nginx", "-e", "stderr", "-c", write("servers.conf", NGINX.format(folder=folder, http=servers))], OTHERS)
        def arriero(name, port, cores, more=""):
            text = YAML.format(**{**ports, "port": port}, folder=folder, more=more)
            return start([arguments.arriero, "run", "-c", write(f"{name}.yaml", text)], cores)

        if arguments.cluster:
            start(["redis-server", "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--save", "", "--dir", folder], OTHERS)
            redis = f'cluster: {{ redis: "redis://127.0.0.1:{ports["redis"]}", instance: '
            for name in ("second", "third"):
                arriero(name, free(), OTHERS, redis + name + " }")
            proxies = {other: arriero(other, ports[other], [PROXY]), one: arriero(one, ports[one], [PROXY], redis + "first }")}
        else:
            proxied = NGINX.format(folder=folder, http=PROXIED.format(**{**ports, "port": ports["nginx"]}))
            nginx = start(["nginx", "-e", "stderr", "-c", write("proxy.conf", proxied)], [PROXY])
            proxies = {other: nginx, one: arriero(one, ports[one], [PROXY])}
        for name in proxies:
            answers(ports[name])
        print(f"{one} / {other}, {arguments.rounds} rounds: median (least to most)")
        for scene in scenes:
            cost, rate = [], []
            for turn in range(arguments.rounds):
                seen = {}
                for name in sorted(proxies, reverse=turn % 2 == 1):
                    seen[name] = measure(proxies[name], ports[name], scene, arguments.seconds, folder)
                cost.append(seen[one][0] / seen[other][0])
                rate.append(seen[one][1] / seen[other][1])
            shown = [f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})" for figures in (cost, rate)]
            print(f"  {scene:7} processor time {shown[0]:22} throughput {shown[1]}", flush=True)


if __name__ == "__main__":
    main()
