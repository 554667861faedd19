"""The official Web PubSub client for Python, unmodified, over json.webpubsub.azure.v1.

usage: webpubsub_client.py ws://HOST:PORT [PART OF A CASE'S NAME]

What the client does that the cases rely on: it sends an `ackId` with everything unless told not to, takes a Duplicate
for success, leaves `data` out where it is None, and never sends a ping. It runs every callback in a thread of its own,
so the order of messages is not tested here. It waits for `open` and for each ack in a condition variable that may be
notified before it waits: then it looks again only when its timeout has passed. The timeouts are cut to 2 s, so
that this costs 2 s and not the default 30.
"""

import contextlib
import sys
import threading

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    OpenClientError,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)

from cases import DEADLINE, case, equal, run, wait_until

URL = sys.argv[1].rstrip("/") + "/client/hubs/chat"
TEXT, JSON, BINARY = WebPubSubDataType.TEXT, WebPubSubDataType.JSON, WebPubSubDataType.BINARY


class Client:
    def __init__(self, protocol=WebPubSubProtocolType.JSON):
        self.connected, self.disconnected, self.stopped, self.messages = [], [], [], []
        self.sdk = WebPubSubClient(
            URL, protocol_type=protocol, start_timeout=2.0, ack_timeout=2.0, message_retry_total=0,
            reconnect_retry_total=0,
        )
        self.sdk.subscribe(CallbackType.CONNECTED, self.connected.append)
        self.sdk.subscribe(CallbackType.DISCONNECTED, self.disconnected.append)
        self.sdk.subscribe(CallbackType.STOPPED, lambda: self.stopped.append(True))
        self.sdk.subscribe(CallbackType.GROUP_MESSAGE, self.remember)

    def remember(self, message):
        self.messages.append(message)

    def __enter__(self):
        self.sdk.open()
        wait_until(lambda: self.connected, "connected")
        return self

    def __exit__(self, *_):
        self.sdk.close()
        wait_until(lambda: self.stopped, "stopped")

    def wait_for(self, data):
        """Waits until `data` has come, and until every callback that was begun before is through."""
        wait_until(lambda: any(same(message.data, data) for message in self.messages), f"{data!r}")
        for thread in threading.enumerate():
            if "(remember)" in thread.name and thread.is_alive():  # a thread has its function in its name
                thread.join(DEADLINE)
        return [message.data for message in self.messages]


def same(got, wanted):
    return type(got) is type(wanted) and got == wanted


@contextlib.contextmanager
def clients(count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client()) for _ in range(count)]


def failure(operation, *arguments, **options):
    try:
        operation(*arguments, **options)
    except SendMessageError as error:
        return error
    raise AssertionError("the operation was acknowledged")


@case("open: connected brings a connection id and no user")
def connected():
    with clients(2) as (one, two):
        ids = [client.connected[0].connection_id for client in [one, two]]
        assert all(ids) and ids[0] != ids[1], ids
        equal(one.connected[0].user_id, None)
        assert one.sdk.is_connected()


@case("join_group, send_to_group: text, json and binary reach the other member as sent")
def send_to_group():
    with clients(2) as (ann, bob):
        bob.sdk.join_group("lobby")
        payloads = [
            ("Grüße 😀", TEXT), ({"a": [1, {"b": None}], "c": 1.5}, JSON), ("json text", JSON), (0, JSON),
            (memoryview(b"\x00\x01\xfe\xff"), BINARY), (memoryview(b"proto"), WebPubSubDataType.PROTOBUF),
        ]
        for data, data_type in payloads:
            ann.sdk.send_to_group("lobby", data, data_type)
            bob.wait_for(data)
        equal({(m.group, m.from_user_id, m.sequence_id) for m in bob.messages}, {("lobby", None, None)})
        equal(sorted(m.data_type for m in bob.messages), sorted(t.value for _, t in payloads))


@case("an echo comes to a sender who is a member, with no_echo none comes")
def no_echo():
    with clients(1) as (ann,):
        ann.sdk.join_group("lobby")
        ann.sdk.send_to_group("lobby", "not back", TEXT, no_echo=True)
        ann.sdk.send_to_group("lobby", "back", TEXT)
        equal(ann.wait_for("back"), ["back"])


@case("leave_group: nothing comes any more")
def leave_group():
    with clients(2) as (ann, bob):
        bob.sdk.join_group("left")
        bob.sdk.join_group("stayed")
        bob.sdk.leave_group("left")
        ann.sdk.send_to_group("left", "missed", TEXT)
        ann.sdk.send_to_group("stayed", "marker", TEXT)
        equal(bob.wait_for("marker"), ["marker"])


@case("a message without an ack is delivered too")
def without_ack():
    with clients(2) as (ann, bob):
        bob.sdk.join_group("g")
        for i in range(50):
            ann.sdk.send_to_group("g", i, JSON, ack=False)
        for i in range(50):
            bob.wait_for(i)
        equal(sorted(message.data for message in bob.messages), list(range(50)))


@case("an ack_id used again counts as success and sends nothing")
def duplicate():
    with clients(2) as (ann, bob):
        bob.sdk.join_group("g")
        ann.sdk.send_to_group("g", "once", TEXT, ack_id=42)
        ann.sdk.send_to_group("g", "again", TEXT, ack_id=42)
        ann.sdk.send_to_group("g", "marker", TEXT)
        equal(sorted(bob.wait_for("marker")), ["marker", "once"])


@case("send_event without an event handler fails with NotFound")
def send_event():
    with clients(1) as (ann,):
        error = failure(ann.sdk.send_event, "order", {"x": 1}, JSON, ack_id=5)
        equal((error.ack_id, error.error_detail.name), (5, "NotFound"))
        assert error.error_detail.message


@case("a bad group name fails with BadRequest and the client stays connected")
def bad_group():
    with clients(1) as (ann,):
        equal(failure(ann.sdk.join_group, " ").error_detail.name, "BadRequest")
        ann.sdk.join_group("good")


@case("close ends with disconnected and stopped, and the client can open again")
def reopen():
    client = Client()
    with client:
        first = client.connected[0].connection_id
    wait_until(lambda: client.disconnected, "disconnected")
    equal(client.disconnected[0].connection_id, first)
    client.connected.clear()
    client.stopped.clear()
    with client:
        assert client.connected[0].connection_id != first


@case("the default protocol is the reliable one: not selected, so open fails")
def reliable():
    # Until the daemon speaks json.reliable.webpubsub.azure.v1 a user of this client has to ask for the other protocol.
    client = Client(WebPubSubProtocolType.JSON_RELIABLE)
    try:
        client.sdk.open()
    except OpenClientError as error:
        assert "Invalid WebSocket Header" in str(error), error  # all that websocket-client says of the subprotocol
    else:
        raise AssertionError("the client opened")


run()
