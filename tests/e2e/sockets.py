"""WebSockets of the `websockets` package through Arriero: they live on while the configuration changes."""

import contextlib
import itertools
import threading

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.sync.client import connect
from websockets.sync.server import serve

from checks import check, expect, expect_equal
from fleet import Front, fetch, free_port

# What socket.io asks for: first a few polls, then the socket on the same path.
SOCKET = "/socket.io/?EIO=4&transport=websocket"
POLL = "/socket.io/?EIO=4&transport=polling"


class EchoServer:
    """Tells each socket its number, then sends everything back. Polls are answered with a word."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.port = free_port()
        self.closed = []
        self.server = serve(self.echo, "127.0.0.1", self.port, process_request=self.poll, max_size=1 << 24)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @staticmethod
    def poll(connection, request):
        if "transport=polling" in request.path:
            return connection.respond(200, "polled")
        return None

    def echo(self, socket):
        number = next(self.numbers)
        socket.send(f"you are {number}")
        try:
            for message in socket:
                socket.send(message)
        except ConnectionClosed:
            pass  # with another code than 1000; the list tells
        finally:
            self.closed.append((number, socket.close_code))

    def stop(self):
        self.server.shutdown()
        self.thread.join(10)


def routes(port, generation, more=""):
    """Sockets go to the echo server; `generation` shows which file is in force."""
    header = f"headers: {{ response: {{ set: {{ X-Generation: \"{generation}\" }} }} }}"
    return f"""
routes:
  - {{ name: sockets, match: {{ path: /socket.io/ }}, upstream: echo, {header} }}
{more}
upstreams:
  echo: {{ kind: http, servers: [{{ url: "http://127.0.0.1:{port}" }}], health: {{ active: off }} }}
"""


@contextlib.contextmanager
def behind_arriero(world, name, more=""):
    echo = EchoServer()
    front = Front(world.binary, name, world.directory, routes(echo.port, 1, more))
    world.processes.append(front.process)
    try:
        yield echo, front
    finally:
        front.process.stop()
        echo.stop()


@check("websockets: a socket lives on over reloads")
def over_reloads(world):
    with behind_arriero(world, "sockets") as (echo, front):
        expect_equal(fetch(front.url + POLL), b"polled", "the poll before the socket")
        with connect("ws" + front.url[4:] + SOCKET, max_size=1 << 24) as socket:
            expect_equal(socket.recv(10), "you are 1", "the first word")
            for generation in range(2, 6):
                socket.send(f"before {generation}")
                expect_equal(socket.recv(10), f"before {generation}", "an echo before the reload")
                # A message is under way while the file changes.
                large = bytes(range(256)) * 4096
                socket.send(large)
                front.reload(routes(echo.port, generation))
                expect(socket.recv(10) == large, "1 MB sent during the reload comes back as another")
                expect(socket.ping().wait(10), "no answer to a ping")
            expect_equal(echo.closed, [], "sockets that were closed")
        # The close handshake passes in both directions.
        with connect("ws" + front.url[4:] + SOCKET) as socket:
            expect_equal(socket.recv(10), "you are 2", "the first word")
            socket.close(4001, "enough")
            try:
                socket.recv(10)
            except Exception as error:  # noqa: BLE001: judged below
                expect(not isinstance(error, ConnectionClosedOK), "closed as if with 1000")
                expect_equal((error.sent.code, error.rcvd.code, error.rcvd.reason), (4001, 4001, "enough"), "the close")


@check("websockets: a hundred sockets at a time, each gets its own")
def hundred(world):
    with behind_arriero(world, "hundred") as (echo, front):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(connect("ws" + front.url[4:] + SOCKET)) for _ in range(100)]
            names = {socket.recv(10) for socket in sockets}
            expect_equal(names, {f"you are {number}" for number in range(1, 101)}, "their numbers")
            for number, socket in enumerate(sockets):
                socket.send(f"mine {number}")
            front.reload(routes(echo.port, 2))
            for number, socket in enumerate(sockets):
                expect_equal(socket.recv(10), f"mine {number}", "an echo")
