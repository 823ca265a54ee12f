"""An application with a page, and with a WebSocket that says everything in capitals.

usage: app.py HOST:PORT        (pip install websockets)
"""

import asyncio
import http
import sys

from websockets.asyncio.server import serve


async def shout(socket):
    async for words in socket:
        await socket.send(words.upper())


def page(connection, request):
    if request.path != "/ws":
        return connection.respond(http.HTTPStatus.OK, f"the page of {sys.argv[1]}\n")
    return None


async def main():
    host, port = sys.argv[1].split(":")
    async with serve(shout, host, int(port), process_request=page):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
