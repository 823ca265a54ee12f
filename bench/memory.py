#!/usr/bin/env python3
"""How much memory uploads take: eight bodies of 100 MB at a time, model first and model last.

    bench/memory.py PATH_OF_ARRIERO

Prints the resident memory of the process after one upload (from then on its own code is in memory), at its peak and a
minute later, and what the ninth held body is answered. Traffic stays on loopback; what is started is ended. Exit status
1 when a figure is beyond what docs/vision-uploads.md promises, or more than a fifth stays a minute later.
"""
import os, re, signal, socket, subprocess, sys, tempfile, threading, time

SIZE = 100 * 1000 * 1000
UPLOADS = 8
MIB = 1 << 20


def sink(listener):
    """A server that takes any body and says how long it was."""

    def serve(connection):
        with connection:
            buffer = bytearray(1 << 20)
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    head += piece
                head, rest = head.split(b"\r\n\r\n", 1)
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                got, want = len(rest), int(length[1]) if length else 0
                while got < want:
                    got += connection.recv_into(buffer) or 1 << 62
                body = b"%d" % got
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def body(first):
    """Head of the body, its filling, its tail."""
    return (b'{"model":"m","image":"', b'"}') if first else (b'{"image":"', b'","model":"m"}')


def upload(port, first, finish, answers):
    start, end = body(first)
    fill = SIZE - len(start) - len(end)
    piece = b"A" * (1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE + start)
        try:
            while fill:
                fill -= connection.send(piece[: min(fill, len(piece))])
            finish.wait()
            connection.sendall(end)
        except OSError:
            pass
        answer = b""
        while True:
            try:
                got = connection.recv(65536)
            except OSError:
                break
            if not got:
                break
            answer += got
        answers.append(answer.split(b"\r\n", 1)[0].decode() + " " + answer.rsplit(b"\r\n", 1)[-1].decode()[:80])


def status(pid, key):
    with open(f"/proc/{pid}/status") as text:
        return int(re.search(rf"^{key}:\s+(\d+)", text.read(), re.M)[1]) * 1024


def run(arriero, first):
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=sink, args=(listener,), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "arriero.yaml")
        with open(config, "w") as file:
            file.write(f"""version: 1
listeners: [{{ address: "127.0.0.1:{port}", timeouts: {{ request_body: 120s }} }}]
admin: {{ address: "127.0.0.1:0" }}
server: {{ threads: 2, body_budget: {SIZE * UPLOADS // MIB + 2}MiB, temp_dir: "{folder}" }}
telemetry: {{ access_log: off }}
routes: [{{ name: m, match: {{ path: /, model: m }}, upstream: a }}]
upstreams: {{ a: {{ kind: http, servers: [{{ url: "http://127.0.0.1:{listener.getsockname()[1]}" }}] }} }}
""")
        process = subprocess.Popen([arriero, "run", "-c", config], stderr=subprocess.DEVNULL)
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            finish = threading.Event()
            finish.set()
            upload(port, first, finish, [])
            # By then threads that only files needed have ended.
            time.sleep(15)
            before, code = status(process.pid, "VmRSS"), status(process.pid, "RssFile")
            answers, ninth, finish = [], [], threading.Event()
            threads = [threading.Thread(target=upload, args=(port, first, finish, answers)) for _ in range(UPLOADS)]
            for thread in threads:
                thread.start()
            if not first:
                # The ninth comes when the other eight are held but for their last bytes.
                while len(os.listdir(f"/proc/{process.pid}/fd")) < 10 + UPLOADS or busy(process.pid):
                    time.sleep(0.2)
                upload(port, first, finish, ninth)
            finish.set()
            for thread in threads:
                thread.join()
            peak = status(process.pid, "VmHWM")
            time.sleep(60)
            after, code_after = status(process.pid, "VmRSS"), status(process.pid, "RssFile")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    good = sum(answer.startswith("HTTP/1.1 200") and answer.endswith(str(SIZE)) for answer in answers)
    print(f"model {'first' if first else 'last '}: {good}/{UPLOADS} good, RSS {before / MIB:.1f} MiB, peak +{(peak - before) / MIB:.1f} MiB, "
          f"a minute later {after / MIB:.1f} MiB ({after / before:.2f} x; {(code_after - code) / MIB:+.1f} MiB of it code)" + (f", ninth: {ninth[0]}" if ninth else ""))
    return good == UPLOADS and peak - before <= 32 * MIB and after <= 1.2 * before and (first or ninth[0].startswith("HTTP/1.1 503"))


def busy(pid):
    """Whether the process still reads: its count of read bytes moves."""
    def read():
        with open(f"/proc/{pid}/io") as text:
            return int(re.search(r"wchar: (\d+)", text.read())[1])
    one = read()
    time.sleep(0.5)
    return read() != one


if __name__ == "__main__":
    results = [run(sys.argv[1], first) for first in (True, False)]
    sys.exit(0 if all(results) else 1)
