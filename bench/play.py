"""What the benches of this folder share: a small server, Arriero before it, and whoever plays a client.

Everybody plays in a process of its own, so that what one measures is not how busy another is. Traffic stays on
loopback; what is started is ended.
"""
import asyncio, multiprocessing, os, re, resource, signal, subprocess, tempfile, time, traceback

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FORK = multiprocessing.get_context("fork")
CORES = sorted(os.sched_getaffinity(0))
MISSED = []


def mark(what, good):
    print(f"  {'ok  ' if good else 'MISS'} {what}", flush=True)
    if not good:
        MISSED.append(what)


def all_files():
    """As many descriptors as the system lets us have; what is started from here has them too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Player:
    """A process that plays `role(stage, ...)`, on one core if that is said. What the role returns is heard last."""

    def __init__(self, role, *arguments, core=None):
        self.link, far = FORK.Pipe()
        self.process = FORK.Process(target=self.play, args=(role, arguments, far, core), daemon=True)
        self.process.start()
        far.close()

    @staticmethod
    def play(role, arguments, link, core):
        if core is not None:
            os.sched_setaffinity(0, {core})
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        async def on_stage():
            return await role(Stage(link), *arguments)

        try:
            link.send(asyncio.run(on_stage()))
        except Exception:
            traceback.print_exc()

    def hear(self):
        """What the player says next."""
        return self.link.recv()

    def tell(self, word):
        self.link.send(word)

    def end(self):
        self.process.kill()
        self.process.join()


class Stage:
    """The player's end: what it says, and what it is told."""

    def __init__(self, link):
        self.link, self.told = link, asyncio.Queue()
        asyncio.get_running_loop().add_reader(link.fileno(), self.read)

    def read(self):
        try:
            self.told.put_nowait(self.link.recv())
        except EOFError:
            asyncio.get_running_loop().remove_reader(self.link.fileno())

    def say(self, word):
        self.link.send(word)


async def server(stage):
    """Says its port. Answers everything at once, but for /stream: a numbered line each fifth of a second. Told anything,
    it ends the streams that are open."""
    open_streams = set()

    async def stream(writer):
        ends = asyncio.Event()
        open_streams.add(ends)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        number = 0
        while not ends.is_set():
            line = b"%d\n" % number
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            number += 1
            try:
                await asyncio.wait_for(ends.wait(), 0.2)
            except asyncio.TimeoutError:
                pass
        writer.write(b"4\r\nend\n\r\n0\r\n\r\n")

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if b" /stream" in head:
                    await stream(writer)
                else:
                    writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    stage.say(listening.sockets[0].getsockname()[1])
    while True:
        await stage.told.get()
        for ends in open_streams:
            ends.set()
        open_streams.clear()


class Arriero:
    """The program before one server. `listener` goes into its listener, `more` stands at the top of the file."""

    def __init__(self, binary, port, listener="", more="", files=None):
        self.binary, self.folder = binary, tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "arriero.yaml")
        with open(path, "w") as file:
            file.write(
                f'version: 1\nlisteners: [{{ address: "127.0.0.1:0"{listener} }}]\nadmin: {{ address: "127.0.0.1:0" }}\n'
                f"telemetry: {{ access_log: off }}\nroutes: [{{ name: all, upstream: web }}]\n{more}\n"
                f'upstreams: {{ web: {{ kind: http, servers: [{{ url: "http://127.0.0.1:{port}" }}] }} }}\n'
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
        self.pid = self.process.pid

    @property
    def port(self):
        return self.ports["data"]

    def rss(self):
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def cpu(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def command(self, *words):
        """A command of the program, told to this process."""
        words = [self.binary, *words, "--admin", f"127.0.0.1:{self.ports['admin']}"]
        return subprocess.run(words, capture_output=True, text=True)

    def end(self):
        """Ends the process, and the one that has taken over from it."""
        for pid in {self.pid, self.process.pid}:
            if pid != self.process.pid or self.process.poll() is None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()
        self.folder.cleanup()


async def ask(port, path="/"):
    """One request on its own connection: whether it was answered well, and how long that took."""
    start = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    return answer.startswith(b"HTTP/1.1 200"), time.monotonic() - start


async def steady(_stage, port, seconds, per_second):
    """Good traffic; how many requests failed, and the 99th percentile."""
    async def one(delay):
        await asyncio.sleep(delay)
        try:
            return await ask(port)
        except (OSError, asyncio.TimeoutError):
            return False, 10.0

    done = await asyncio.gather(*(one(n / per_second) for n in range(int(seconds * per_second))))
    times = sorted(took for _, took in done)
    return sum(not good for good, _ in done), times[int(len(times) * 0.99)]
