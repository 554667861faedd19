"""FastAPI as its own documentation uses it: a route, and a list of connections to send to.

uvicorn fastapi_server:app --port PORT --loop uvloop --http httptools --ws websockets
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
subscribers: set[WebSocket] = set()


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
    except (WebSocketDisconnect, RuntimeError):
        pass


@app.websocket("/sub")
async def subscribe(socket: WebSocket):
    await socket.accept()
    subscribers.add(socket)
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        subscribers.discard(socket)


@app.websocket("/pub")
async def publish(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            text = await socket.receive_text()
            for subscriber in list(subscribers):
                try:
                    await subscriber.send_text(text)
                except (WebSocketDisconnect, RuntimeError):
                    pass
    except (WebSocketDisconnect, RuntimeError):
        pass
