#!/usr/bin/env python3
"""Nobody notices that the process stops or makes room for another: 100 streams and 100 requests a second meanwhile.

    bench/lifecycle.py PATH_OF_ARRIERO [stop|upgrade ...] [TIMES]

`stop` sends SIGTERM: who has connected by then is served, streams end as their server ends them, the exit status is 0. That
nobody is accepted afterwards is what a stop means, so then the clients leave. `upgrade` is `arriero upgrade`, one after the
other: nobody is refused either. 20 times each unless said otherwise. Exit status 1 when one stream was cut or one
request failed.
"""
import asyncio, os, signal, sys, time

from play import MISSED, Arriero, Player, all_files, mark, server

STREAMS, CLIENTS, PER_SECOND = 100, 20, 100


async def watch_streams(stage, port):
    """Told anything, opens the streams and says when all have begun; then how many did not come whole to their end."""
    async def one(began):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /stream HTTP/1.1\r\nHost: a.test\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [await chunk(reader)]
            began.set()
            while lines[-1]:
                lines.append(await chunk(reader))
            whole = [b"%d\n" % number for number in range(len(lines) - 2)] + [b"end\n", b""]
            return head.startswith(b"HTTP/1.1 200") and b"".join(lines) == b"".join(whole)
        except (OSError, asyncio.IncompleteReadError):
            return False
        finally:
            began.set()
            writer.close()

    while True:
        await stage.told.get()
        begun = [asyncio.Event() for _ in range(STREAMS)]
        streams = [asyncio.ensure_future(one(began)) for began in begun]
        await asyncio.gather(*(began.wait() for began in begun))
        stage.say(sum(not stream.done() for stream in streams))
        stage.say(STREAMS - sum(await asyncio.gather(*streams)))


async def chunk(reader):
    length = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(length + 2))[:-2]


class Client:
    """Asks at a steady pace, every second one on a connection that it keeps as long as it is told that it may."""

    def __init__(self, port, keeps):
        self.port, self.keeps, self.kept = port, keeps, None
        self.good, self.failed, self.refused, self.reset = 0, [], 0, 0

    async def ask(self):
        reader, writer = self.kept or (None, None)
        self.kept = None
        # A connection that was closed while nobody used it was free to be.
        if reader is None or reader.at_eof():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                self.refused += 1
                return
            except ConnectionResetError:
                # It came while the socket was being closed: refused too, by another word.
                self.refused, self.reset = self.refused + 1, self.reset + 1
                return
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            if not head.startswith(b"HTTP/1.1 200") or await reader.readexactly(2) != b"{}":
                raise OSError(head.split(b"\r\n")[0])
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.failed.append(repr(error))
            writer.close()
            return
        self.good += 1
        if self.keeps and b"\r\nconnection: close" not in head.lower():
            self.kept = reader, writer
        else:
            writer.close()


async def load(stage, port, until_refused):
    """Requests until told to stop, or until nobody listens; how many were answered, what failed, how many connections
    were refused, or reset where a refusal is what ends it."""
    clients = [Client(port, number % 2 == 0) for number in range(CLIENTS)]
    stop = asyncio.Event()

    async def run(client, number):
        at = time.monotonic() + number / PER_SECOND
        while not stop.is_set() and not (until_refused and client.refused):
            await asyncio.sleep(max(0, at - time.monotonic()))
            await client.ask()
            at += CLIENTS / PER_SECOND

    running = asyncio.gather(*(run(client, number) for number, client in enumerate(clients)))
    if not until_refused:
        await stage.told.get()
        stop.set()
    await running
    turned_away = sum(client.reset if until_refused else client.refused for client in clients)
    return sum(client.good for client in clients), [why for client in clients for why in client.failed], turned_away


def ended(pid, seconds=30):
    """Whether the process ends within that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rsplit(") ", 1)[1][0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def report(what, times, cut, answered, failed, refused):
    for why in sorted(set(failed)):
        print(f"  {failed.count(why)} x {why}")
    print(f"  {times} x {what}: {times * STREAMS} streams, {answered} requests answered")
    mark(f"{cut} streams cut", cut == 0)
    mark(f"{len(failed)} requests failed, {refused} refused", not failed and refused == 0)


def stop(binary, times):
    cut, answered, failed, resets, statuses, drains = 0, 0, [], 0, [], []
    for _ in range(times):
        small = Player(server)
        arriero = Arriero(binary, small.hear())
        streams, requests = Player(watch_streams, arriero.port), Player(load, arriero.port, True)
        try:
            streams.tell("open")
            begun = streams.hear()
            time.sleep(1)
            arriero.process.send_signal(signal.SIGTERM)
            good, bad, reset = requests.hear()
            time.sleep(1)
            small.tell("end")
            told = time.monotonic()
            cut += streams.hear() + STREAMS - begun
            statuses.append(arriero.process.wait(30))
            drains.append(time.monotonic() - told)
            answered, failed, resets = answered + good, failed + bad, resets + reset
        finally:
            for each in streams, requests, arriero, small:
                each.end()
    report("SIGTERM", times, cut, answered, failed, 0)
    print(f"  {resets} connections reset instead of refused, in the moment of closing")
    print(f"  ended at the most {max(drains):.2f} s after the last stream was told to end")
    mark("exit status 0 each time", set(statuses) == {0})


def upgrade(binary, times):
    small = Player(server)
    arriero = Arriero(binary, small.hear())
    streams, requests = Player(watch_streams, arriero.port), Player(load, arriero.port, False)
    cut, statuses, took, gone = 0, [], [], 0
    try:
        for _ in range(times):
            streams.tell("open")
            begun = streams.hear()
            start = time.monotonic()
            done = arriero.command("upgrade")
            took.append(time.monotonic() - start)
            statuses.append(done.returncode)
            if done.returncode:
                print(done.stderr)
                break
            time.sleep(0.5)
            small.tell("end")
            cut += streams.hear() + STREAMS - begun
            gone += ended(arriero.pid)
            arriero.pid = int(done.stdout.split()[-1])
        requests.tell("stop")
        answered, failed, refused = requests.hear()
        os.kill(arriero.pid, signal.SIGTERM)
        gone += ended(arriero.pid)
    finally:
        for each in streams, requests, arriero, small:
            each.end()
    report("upgrade", times, cut, answered, failed, refused)
    print(f"  an upgrade took {min(took):.2f} to {max(took):.2f} s")
    mark("each upgrade worked, each process before has ended", statuses == [0] * times and gone == times + 1)


def main():
    binary, words = sys.argv[1], sys.argv[2:]
    times = next((int(word) for word in words if word.isdigit()), 20)
    all_files()
    for name in [word for word in words if not word.isdigit()] or ["stop", "upgrade"]:
        print(name, flush=True)
        globals()[name](binary, times)
    sys.exit(bool(MISSED))


if __name__ == "__main__":
    main()
