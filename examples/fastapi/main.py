"""FastAPI's WebSocket tutorial with the sockets moved out of Python: hubnerite holds them, and this application hears
over HTTP who comes, goes and says what. It answers through the REST API, whenever it likes. README.md has the commands.
"""

import asyncio
import hashlib
import hmac
import os
from collections import defaultdict
from contextlib import asynccontextmanager
from urllib.parse import unquote

from azure.messaging.webpubsubservice.aio import WebPubSubServiceClient
from fastapi import FastAPI, HTTPException, Request, Response

CONNECTION_STRING = os.environ["HUBNERITE_CONNECTION_STRING"]
ACCESS_KEY = dict(part.split("=", 1) for part in CONNECTION_STRING.strip(";").split(";"))["AccessKey"]

# Who may connect, with which token. Yours are in a database, or signed.
USERS = {"alice-token": "alice", "bob-token": "bob", "carol-token": "carol"}


class ConnectionManager:
    """What the tutorial keeps in a dict of sockets is a dict of names here: any number of workers can send."""

    def __init__(self, hub: WebPubSubServiceClient):
        self.hub = hub
        self.active_connections: dict[str, set[str]] = defaultdict(set)

    def connect(self, user_id: str, connection_id: str):
        self.active_connections[user_id].add(connection_id)

    def disconnect(self, user_id: str, connection_id: str):
        self.active_connections[user_id].discard(connection_id)
        if not self.active_connections[user_id]:
            del self.active_connections[user_id]

    async def send_message_to_client(self, user_id: str, message: dict):
        await self.hub.send_to_user(user_id, message)

    async def send_message_to_selected(self, user_ids: list[str], message: dict):
        await asyncio.gather(*(self.send_message_to_client(user_id, message) for user_id in user_ids))

    async def broadcast(self, message: dict):
        await self.hub.send_to_all(message)


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with WebPubSubServiceClient.from_connection_string(CONNECTION_STRING, hub="default") as hub:
        app.state.manager = ConnectionManager(hub)
        app.state.tasks = set()
        yield
        await asyncio.gather(*app.state.tasks, return_exceptions=True)


app = FastAPI(lifespan=lifespan)


@app.options("/events")
async def allow_events():
    """hubnerite asks before it sends its first event (CloudEvents, abuse protection)."""
    return Response(headers={"WebHook-Allowed-Origin": "*"})


@app.post("/events")
async def on_event(request: Request):
    connection_id, user_id = request.headers["ce-connectionid"], unquote(request.headers.get("ce-userid", ""))
    check_signature(request, connection_id)
    manager: ConnectionManager = app.state.manager
    match request.headers["ce-type"]:
        case "azure.webpubsub.sys.connect":
            return authenticate(await request.json(), user_id)
        case "azure.webpubsub.sys.connected":
            manager.connect(user_id, connection_id)
        case "azure.webpubsub.sys.disconnected":
            manager.disconnect(user_id, connection_id)
        case "azure.webpubsub.user.message":
            process_later(manager, user_id, await request.json())
        case _:
            raise HTTPException(404)
    return Response(status_code=204)


def check_signature(request: Request, connection_id: str):
    """Only hubnerite knows the access key: whoever else finds this address is not believed."""
    signature = hmac.new(ACCESS_KEY.encode(), connection_id.encode(), hashlib.sha256).hexdigest()
    given = request.headers.get("ce-signature", "").split(",")
    if not any(hmac.compare_digest(f"sha256={signature}", one) for one in given):
        raise HTTPException(401)


def authenticate(client: dict, user_id: str) -> dict:
    """What `Depends(get_user)` does in the tutorial, before the socket opens: who has no token gets 401."""
    user = USERS.get(client["query"].get("token", [""])[0])
    if user is None:
        raise HTTPException(401)
    if user_id not in ("", user):
        raise HTTPException(403)
    return {"userId": user}


def process_later(manager: ConnectionManager, user_id: str, message: dict):
    """The client gets its ack at once; the work goes on in the background."""
    task = asyncio.create_task(process(manager, user_id, message))
    app.state.tasks.add(task)
    task.add_done_callback(app.state.tasks.discard)


async def process(manager: ConnectionManager, user_id: str, message: dict):
    """`{"text": ...}` is for the sender, with `"to": [...]` for those, with `"to": "all"` for everybody."""
    await asyncio.sleep(0.1)  # stands for a database, a model, another service
    result = {"from": user_id, "text": message["text"].upper()}
    match message.get("to"):
        case None:
            await manager.send_message_to_client(user_id, result)
        case "all":
            await manager.broadcast(result)
        case selected:
            await manager.send_message_to_selected(selected, result)


@app.get("/users")
async def users():
    return {user_id: len(ids) for user_id, ids in app.state.manager.active_connections.items()}
