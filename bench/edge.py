#!/usr/bin/env python3
"""What the edge withstands: slow heads, slow bodies, idle connections, no file descriptors.

    bench/edge.py PATH_OF_ARRIERO [slowloris|bodies|idle|files ...]

Each scene starts Arriero before a small server of its own, plays the clients, prints the figures and the mark that
they are held against. Traffic stays on loopback; what is started is ended. Exit status 1 when a mark is missed.
"""
import asyncio, os, re, resource, signal, subprocess, sys, tempfile, time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MISSED = []


def mark(what, good):
    print(f"  {'ok  ' if good else 'MISS'} {what}", flush=True)
    if not good:
        MISSED.append(what)


class Server:
    """Answers everything at once; /stream sends a line each second until it is told to stop."""

    def __init__(self):
        self.connections, self.stop = 0, asyncio.Event()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=4096)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if b" /stream" in head:
                    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
                    while not self.stop.is_set():
                        writer.write(b"3\r\n{}\n\r\n")
                        await writer.drain()
                        await asyncio.sleep(1)
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


class Arriero:
    def __init__(self, binary, server, more="", files=None):
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "arriero.yaml")
        with open(path, "w") as file:
            file.write(
                f'version: 1\nlisteners: [{{ address: "127.0.0.1:0"{more} }}]\nadmin: {{ address: "127.0.0.1:0" }}\n'
                "telemetry: { access_log: off }\nroutes: [{ name: all, upstream: web }]\n"
                f'upstreams: {{ web: {{ kind: http, servers: [{{ url: "http://127.0.0.1:{server.port}" }}] }} }}\n'
            )
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        self.process = subprocess.Popen([binary, "run", "-c", path], stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        self.ports = {}
        for line in self.process.stderr:
            if " http://" in line:
                self.ports["admin" if line.startswith("admin") else "data"] = int(line.strip().rsplit(":", 1)[1])
            if len(self.ports) == 2:
                break
        os.set_blocking(self.process.stderr.fileno(), False)

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def ask(port, path="/"):
    start = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.startswith(b"HTTP/1.1 200"), time.monotonic() - start


async def steady(port, seconds, per_second=10):
    """Good traffic; how many failed, and the 99th percentile."""
    async def one(delay):
        await asyncio.sleep(delay)
        try:
            return await ask(port)
        except Exception:
            return False, 10.0

    done = await asyncio.gather(*(one(n / per_second) for n in range(int(seconds * per_second))))
    times = sorted(took for _, took in done)
    return sum(not good for good, _ in done), times[int(len(times) * 0.99)]


async def slow_heads(port, count, closed):
    async def one(number):
        await asyncio.sleep(number / count)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = time.monotonic()
        gone = asyncio.ensure_future(reader.read())
        for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 20:
            writer.write(bytes([byte]))
            if (await asyncio.wait([gone], timeout=5))[0]:
                break
        closed.append(time.monotonic() - start)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(count)))


async def slowloris(binary):
    server = await Server().start()
    # All come from one address here, and most would be refused at once.
    arriero = Arriero(binary, server, ", limits: { connections_per_ip: 0 }")
    try:
        _, before = await steady(arriero.ports["data"], 10)
        closed = []
        (failed, during), _ = await asyncio.gather(
            steady(arriero.ports["data"], 15), slow_heads(arriero.ports["data"], 3000, closed))
        print(f"  3000 sockets, closed after {min(closed):.1f} to {max(closed):.1f} s; "
              f"good traffic p99 {before * 1e3:.1f} ms before, {during * 1e3:.1f} ms meanwhile, {failed} failed")
        # A byte is sent each 5 s, so this client notices within the same.
        mark("each slow head closed at 10 s, seen by its client at 9 to 15.5 s", 9 <= min(closed) and max(closed) <= 15.5)
        mark("good traffic: no error", failed == 0)
        mark("good traffic: p99 within 1.5 x, or 20 ms of this machine's noise", during <= max(1.5 * before, before + 0.02))
    finally:
        arriero.end()


async def bodies(binary):
    server = await Server().start()
    arriero = Arriero(binary, server)
    before, closed = arriero.rss(), []

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", arriero.ports["data"])
        writer.write(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1048576\r\n\r\n")
        start, gone = time.monotonic(), asyncio.ensure_future(reader.read())
        while not (await asyncio.wait([gone], timeout=1))[0]:
            writer.write(b"a" * 10)
        closed.append(time.monotonic() - start)
        writer.close()

    try:
        await asyncio.gather(*(one() for _ in range(500)))
        print(f"  500 bodies of 10 B/s, closed after {min(closed):.1f} to {max(closed):.1f} s, "
              f"RSS {before:.1f} to {arriero.rss():.1f} MiB")
        mark("closed within 12.5 s", max(closed) <= 12.5)
        mark("RSS growth within 64 MiB", arriero.rss() - before <= 64)
    finally:
        arriero.end()


async def idle(binary):
    server = await Server().start()
    arriero = Arriero(binary, server, ", timeouts: { keepalive: 600s }, limits: { connections: 0, connections_per_ip: 0 }")
    before, kept = arriero.rss(), []

    async def open_one(path):
        reader, writer = await asyncio.open_connection("127.0.0.1", arriero.ports["data"])
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
        await reader.readuntil(b"{}")
        kept.append((reader, writer))

    # Arriero keeps two descriptors for each connection: with few of them there are fewer idle ones.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, (hard // 2 - 1_100) // 500 * 500)
    try:
        for _ in range(0, count, 500):
            await asyncio.gather(*(open_one("/") for _ in range(500)))
        waiting = arriero.rss()
        for _ in range(0, 1000, 250):
            await asyncio.gather(*(open_one("/stream") for _ in range(250)))
        both, cpu = arriero.rss(), arriero.cpu()
        await asyncio.sleep(5)
        cpu = (arriero.cpu() - cpu) / 5
        print(f"  RSS {before:.1f} MiB, {waiting:.1f} with {count} idle ({(waiting - before) * 1024 / count:.1f} KiB each), "
              f"{both:.1f} with 1,000 streams; {cpu * 100:.1f} % of a core")
        mark(f"{count} idle connections and 1,000 streams within their share of 350 MiB", both <= 350 * (count + 1000) / 11_000)
        mark("an idle connection within 20 KiB", (waiting - before) * 1024 / count <= 20)
    finally:
        arriero.end()


async def files(binary):
    server = await Server().start()
    arriero = Arriero(binary, server, files=512)
    kept = []

    async def client():
        try:
            kept.append(await asyncio.open_connection("127.0.0.1", arriero.ports["data"]))
            kept[-1][1].write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        except OSError:
            pass

    try:
        await asyncio.gather(*(client() for _ in range(2000)))
        cpu, slowest, good = arriero.cpu(), 0, 0
        for _ in range(20):
            fine, took = await ask(arriero.ports["admin"], "/health")
            good, slowest = good + fine, max(slowest, took)
            await asyncio.sleep(0.25)
        cpu = (arriero.cpu() - cpu) / 5
        reloaded = subprocess.run([binary, "reload", "--admin", f"127.0.0.1:{arriero.ports['admin']}"], capture_output=True)
        for _, writer in kept:
            writer.close()
        start = time.monotonic()
        while time.monotonic() - start < 10:
            [result] = await asyncio.gather(ask(arriero.ports["data"]), return_exceptions=True)
            if isinstance(result, tuple) and result[0]:
                break
        recovery = time.monotonic() - start
        print(f"  nofile 512, 2,000 clients: {cpu * 100:.1f} % of a core, /health {good}/20, slowest {slowest * 1e3:.0f} ms, "
              f"reload exit {reloaded.returncode}, a new request after {recovery:.1f} s")
        mark("no spin: within 60 % of a core", cpu <= 0.6)
        mark("health answers every time", good == 20)
        mark("a reload works", reloaded.returncode == 0)
        mark("recovered within 2 s", recovery <= 2)
    finally:
        arriero.end()


def main():
    binary, names = sys.argv[1], sys.argv[2:] or ["slowloris", "bodies", "idle", "files"]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name in names:
        print(name, flush=True)
        asyncio.run(globals()[name](binary))
    sys.exit(bool(MISSED))


if __name__ == "__main__":
    main()
