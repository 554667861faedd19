"""The Python `websockets` package as its own documentation uses it, on uvloop, without compression.

python websockets_server.py PORT
"""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed

subscribers = set()


async def handler(connection):
    path = connection.request.path
    try:
        if path == "/sub":
            subscribers.add(connection)
            await connection.wait_closed()
        elif path == "/pub":
            async for message in connection:
                broadcast(subscribers, message)
        else:
            async for message in connection:
                await connection.send(message)
    except ConnectionClosed:
        pass
    finally:
        subscribers.discard(connection)


async def main():
    port = int(sys.argv[1])
    async with serve(handler, "127.0.0.1", port, compression=None, max_size=2**24, backlog=4096) as server:
        await server.serve_forever()


uvloop.run(main())
