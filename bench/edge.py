#!/usr/bin/env python3
"""What the edge withstands: slow heads, slow bodies, idle connections, no file descriptors.

    bench/edge.py PATH_OF_ARRIERO [slowloris|bodies|idle|files ...]

Each scene starts Arriero before a small server, plays the clients, prints the figures and the mark that they are held
against. Exit status 1 when a mark is missed.
"""
import asyncio, sys, time

from play import CORES, MISSED, Arriero, Player, all_files, ask, mark, server, steady

# Who attacks and whom we measure do not share a core.
GOOD, BAD = CORES[0], CORES[-1]


async def slow_heads(_stage, port, count):
    """So many heads that begin within five seconds, a byte each five seconds; when each was closed."""
    closed = []

    async def one(number):
        await asyncio.sleep(5 * number / count)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = time.monotonic()
        gone = asyncio.ensure_future(reader.read())
        gone.add_done_callback(lambda _: closed.append(time.monotonic() - start))
        for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 20:
            writer.write(bytes([byte]))
            if (await asyncio.wait([gone], timeout=5))[0]:
                break
        writer.close()

    await asyncio.gather(*(one(number) for number in range(count)))
    return closed


def slowloris(binary):
    small = Player(server, core=GOOD)
    # All come from one address here, and most would be refused at once.
    arriero = Arriero(binary, small.hear(), ", limits: { connections_per_ip: 0 }")
    try:
        Player(steady, arriero.port, 3, 100, core=GOOD).hear()
        _, before = Player(steady, arriero.port, 16, 100, core=GOOD).hear()
        slow, good = Player(slow_heads, arriero.port, 3000, core=BAD), Player(steady, arriero.port, 16, 100, core=GOOD)
        failed, during = good.hear()
        closed = slow.hear()
        print(f"  3000 sockets, closed after {min(closed):.1f} to {max(closed):.1f} s; "
              f"good traffic p99 {before * 1e3:.1f} ms before, {during * 1e3:.1f} ms meanwhile, {failed} failed")
        mark("each slow head closed at 10 s, within 1 s", 9 <= min(closed) and max(closed) <= 11 and len(closed) == 3000)
        mark("good traffic: no error", failed == 0)
        mark("good traffic: p99 within 1.5 x", during <= 1.5 * before)
    finally:
        arriero.end()
        small.end()


async def slow_bodies(_stage, port, count):
    closed = []

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1048576\r\n\r\n")
        start, gone = time.monotonic(), asyncio.ensure_future(reader.read())
        while not (await asyncio.wait([gone], timeout=1))[0]:
            writer.write(b"a" * 10)
        closed.append(time.monotonic() - start)
        writer.close()

    await asyncio.gather(*(one() for _ in range(count)))
    return closed


def bodies(binary):
    small = Player(server)
    arriero = Arriero(binary, small.hear())
    try:
        before = arriero.rss()
        closed = Player(slow_bodies, arriero.port, 500).hear()
        print(f"  500 bodies of 10 B/s, closed after {min(closed):.1f} to {max(closed):.1f} s, "
              f"RSS {before:.1f} to {arriero.rss():.1f} MiB")
        mark("closed within 12.5 s", max(closed) <= 12.5)
        mark("RSS growth within 64 MiB", arriero.rss() - before <= 64)
    finally:
        arriero.end()
        small.end()


async def keepers(stage, port):
    """Told a path and a number, opens so many connections that ask for it and stay; says when each has its answer's start."""
    kept = []

    async def open_one(path):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        kept.append((reader, writer))

    while True:
        path, count = await stage.told.get()
        for _ in range(0, count, 250):
            await asyncio.gather(*(open_one(path) for _ in range(250)))
        stage.say(sum(not reader.at_eof() for reader, _ in kept))


def idle(binary):
    count, streams = 10_000, 1_000
    small = Player(server)
    arriero = Arriero(
        binary, small.hear(), ", timeouts: { keepalive: 600s }, limits: { connections: 0, connections_per_ip: 0 }")
    clients = Player(keepers, arriero.port)
    try:
        before = arriero.rss()
        clients.tell(("/", count))
        open_idle, waiting = clients.hear(), arriero.rss()
        clients.tell(("/stream", streams))
        open_all, both, cpu = clients.hear(), arriero.rss(), arriero.cpu()
        time.sleep(5)
        cpu = (arriero.cpu() - cpu) / 5
        print(f"  RSS {before:.1f} MiB, {waiting:.1f} with {open_idle} idle ({(waiting - before) * 1024 / count:.1f} KiB each), "
              f"{both:.1f} with {open_all - open_idle} streams; {cpu * 100:.1f} % of a core")
        mark(f"all are open: {count} idle, {streams} streams", (open_idle, open_all) == (count, count + streams))
        mark("within 350 MiB", both <= 350)
        mark("an idle connection within 20 KiB", (waiting - before) * 1024 / count <= 20)
    finally:
        for each in clients, arriero, small:
            each.end()


async def crowd(stage, port, count):
    """So many clients that ask at once; told anything, they leave. Says when all have come, and when they have left."""
    kept = []

    async def client():
        try:
            kept.append(await asyncio.open_connection("127.0.0.1", port))
            kept[-1][1].write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        except OSError:
            pass

    await asyncio.gather(*(client() for _ in range(count)))
    stage.say(len(kept))
    await stage.told.get()
    for _, writer in kept:
        writer.close()
    stage.say(None)


async def healths(_stage, port, count):
    """So many looks at /health, four a second: how many were good, the slowest."""
    good, slowest = 0, 0
    for _ in range(count):
        fine, took = await ask(port, "/health")
        good, slowest = good + fine, max(slowest, took)
        await asyncio.sleep(0.25)
    return good, slowest


async def recovery(_stage, port):
    """How long until a request is answered again; ten seconds at the most."""
    start = time.monotonic()
    while time.monotonic() - start < 10:
        [result] = await asyncio.gather(ask(port), return_exceptions=True)
        if isinstance(result, tuple) and result[0]:
            break
    return time.monotonic() - start


def files(binary):
    small = Player(server)
    arriero = Arriero(binary, small.hear(), files=512)
    clients = Player(crowd, arriero.port, 2000)
    try:
        clients.hear()
        cpu, start = arriero.cpu(), time.monotonic()
        good, slowest = Player(healths, arriero.ports["admin"], 20).hear()
        cpu = (arriero.cpu() - cpu) / (time.monotonic() - start)
        reloaded = arriero.command("reload").returncode
        clients.tell("leave")
        clients.hear()
        took = Player(recovery, arriero.port).hear()
        print(f"  nofile 512, 2,000 clients: {cpu * 100:.1f} % of a core, /health {good}/20, slowest {slowest * 1e3:.0f} ms, "
              f"reload exit {reloaded}, a new request after {took:.1f} s")
        mark("no spin: within 60 % of a core", cpu <= 0.6)
        mark("health answers every time", good == 20)
        mark("a reload works", reloaded == 0)
        mark("recovered within 2 s", took <= 2)
    finally:
        for each in clients, arriero, small:
            each.end()


def main():
    binary, names = sys.argv[1], sys.argv[2:] or ["slowloris", "bodies", "idle", "files"]
    all_files()
    for name in names:
        print(name, flush=True)
        globals()[name](binary)
    sys.exit(bool(MISSED))


if __name__ == "__main__":
    main()
