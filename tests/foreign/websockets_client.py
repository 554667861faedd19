"""The daemon as the Python library `websockets` sees it: every address of the data port, frame by frame.

usage: websockets_client.py ws://HOST:PORT [PART OF A CASE'S NAME]
"""

import base64
import http.client
import itertools
import json
import sys
import threading
import urllib.parse
from collections import deque
from contextlib import ExitStack, contextmanager

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from cases import DEADLINE, case, equal, run

BASE = sys.argv[1].rstrip("/")
JSON_PROTOCOL = "json.webpubsub.azure.v1"
RELIABLE_PROTOCOL = "json.reliable.webpubsub.azure.v1"
MAX_MESSAGE = 1024 * 1024  # the default of --max-message-size

# A value that loses something in almost every parser: 1.0, key order, equal keys, big integers, white space, escapes.
VERBATIM = (
    '{"b":1.0, "a" : 1,\t"big":123456789012345678901234567890,"a":[1e3,-0.0,1E+2],'
    '\n "text":"\\u00e9\\/ \\ud83d\\ude00 <\u00e9>"}'
)


def open_socket(path, **options):
    options.setdefault("compression", None)
    # `legacy` only means: connect at once, not first on entering a `with`.
    return connect(
        BASE + path, proxy=None, max_size=None, open_timeout=DEADLINE, close_timeout=DEADLINE, legacy=True, **options
    )


def closed_by_server(ws):
    """Reads until the connection ends; returns the close frame that came, None without one."""
    try:
        while True:
            ws.recv(timeout=DEADLINE)
    except ConnectionClosed as end:
        return end.rcvd


class Peer:
    """A client that speaks the JSON protocol."""

    def __init__(self, path, **options):
        self.ws = open_socket(path, **options)
        self.set_aside = deque()
        self.ack_ids = itertools.count(100_000)  # above those that the cases name
        self.connected = self.next()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def send(self, **frame):
        self.ws.send(json.dumps(frame))

    def next(self):
        if self.set_aside:
            return self.set_aside.popleft()
        return json.loads(self.ws.recv(timeout=DEADLINE))

    def expect(self, **frame):
        equal(self.next(), frame)

    def acknowledged(self, **frame):
        """Sends a frame with an ackId and returns its ack; what comes before the ack is kept for `next`."""
        self.send(**frame)
        passed_over = []
        while True:
            answer = self.next()
            if answer["type"] == "ack" and answer["ackId"] == frame["ackId"]:
                self.set_aside.extend(passed_over)
                return answer
            passed_over.append(answer)

    def join(self, group):
        ack_id = next(self.ack_ids)
        equal(self.acknowledged(type="joinGroup", group=group, ackId=ack_id), success(ack_id))


@contextmanager
def users(*names):
    with ExitStack() as stack:
        yield [stack.enter_context(Peer(f"/ws/{name}")) for name in names]


def success(ack_id):
    return {"type": "ack", "ackId": ack_id, "success": True}


def assert_failed(ack, ack_id, name):
    equal(ack, {"type": "ack", "ackId": ack_id, "success": False, "error": ack.get("error")})
    assert_error(ack["error"], name)


def assert_error(error, name):
    equal(sorted(error), ["message", "name"])
    equal(error["name"], name)
    assert error["message"] and isinstance(error["message"], str), f"an error without a message: {error}"


def from_user(user, data, data_type="json"):
    return {"type": "message", "from": "user", "fromUserId": user, "dataType": data_type, "data": data}


def from_group(group, user, data, data_type="json"):
    return {
        "type": "message", "from": "group", "group": group, "fromUserId": user, "dataType": data_type, "data": data
    }


# ---- /ws and /echo


@case("/ws answers a text with `Message received: ` before it")
def plain_text():
    with open_socket("/ws") as ws:
        for text in ["hello", "", "Grüße, 你好 😀", '{"type":"ping"}', "x" * 70_000]:
            ws.send(text)
            equal(ws.recv(timeout=DEADLINE), f"Message received: {text}")


@case("/ws gives binary back unchanged")
def plain_binary():
    with open_socket("/ws") as ws:
        for data in [b"", bytes(range(256)), b"\xff" * 70_000]:
            ws.send(data)
            equal(ws.recv(timeout=DEADLINE), data)


@case("/echo gives text and binary back, the empty ones too")
def echo_small():
    with open_socket("/echo") as ws:
        for message in ["", b"", "a", b"\x00", "Grüße 😀", "x" * 125, "x" * 126, b"x" * 65_535, b"x" * 65_536]:
            ws.send(message)
            equal(ws.recv(timeout=DEADLINE), message)


@case("/echo takes a message of exactly the largest size")
def echo_largest():
    with open_socket("/echo") as ws:
        for message in ["x" * MAX_MESSAGE, b"\x5a" * MAX_MESSAGE]:
            ws.send(message)
            assert ws.recv(timeout=DEADLINE) == message, "the message of 1 MiB came back changed"


@case("/echo joins fragments, with a ping between them")
def echo_fragments():
    with open_socket("/echo") as ws:
        ws.send(["one ", "", "two ", "Grüße"])
        equal(ws.recv(timeout=DEADLINE), "one two Grüße")
        ws.send([b"\x01" * (MAX_MESSAGE // 8)] * 8)
        assert ws.recv(timeout=DEADLINE) == b"\x01" * MAX_MESSAGE, "8 fragments of 128 KiB came back changed"

        def with_a_ping():
            yield "before"
            assert ws.ping(b"between").wait(DEADLINE), "no pong between two fragments"
            yield " and after"

        ws.send(with_a_ping())
        equal(ws.recv(timeout=DEADLINE), "before and after")


@case("/echo keeps the order of messages sent without waiting")
def echo_order():
    with open_socket("/echo") as ws:
        sender = threading.Thread(target=lambda: [ws.send(f"{i} " + "x" * (i % 700)) for i in range(2000)])
        sender.start()
        for i in range(2000):
            equal(ws.recv(timeout=DEADLINE).split(" ")[0], str(i))
        sender.join()


def burst(ws, *messages):
    """Sends whole messages in one write, so that the server reads them together."""
    opcode = {str: Opcode.TEXT, bytes: Opcode.BINARY}
    frames = [Frame(opcode[type(m)], m.encode() if isinstance(m, str) else m) for m in messages]
    ws.socket.sendall(b"".join(frame.serialize(mask=True) for frame in frames))


@case("messages that come in one burst are all answered, whatever their size")
def bursts():
    for size in [10, 1000, 20_000, 65_535, 65_536, 100_000, 262_144, MAX_MESSAGE]:
        for messages in [["x" * size, "after", "last"], ["before", b"x" * size, "x" * size, "last"]]:
            with open_socket("/echo") as ws:
                burst(ws, *messages)
                for i, message in enumerate(messages):
                    try:
                        assert ws.recv(timeout=DEADLINE) == message, "another message came"
                    except Exception as error:
                        raise AssertionError(f"message {i} of {[len(m) for m in messages]}: {error!r}") from error


@case("nothing that one connection sent ever reaches another")
def no_leak():
    for size in [10, 1000, 65_000, 65_536, 200_000]:
        for _ in range(20):
            first = open_socket("/echo")
            burst(first, "x" * size, "secret", b"secret")
            with open_socket("/echo") as second:
                burst(second, "y" * size, "mine")
                for wanted in ["y" * size, "mine"]:
                    got = second.recv(timeout=DEADLINE)
                    assert got == wanted, f"behind {size} bytes: got {got[:20]!r}, wanted {wanted[:20]!r}"
            first.socket.close()


@case("a message over 1 MiB ends the connection with 1009, in one frame or in many, on every address")
def too_big():
    big = "x" * (MAX_MESSAGE + 1)
    for path in ["/echo", "/ws", "/ws/u1", "/client/hubs/chat"]:
        for message in [big, ["x" * 65_536] * 17]:
            with open_socket(path) as ws:
                try:
                    ws.send(message)
                except ConnectionClosed:
                    pass  # the server need not read it to its end
                close = closed_by_server(ws)
                assert close and close.code == 1009, f"{path}: closed with {close}"


@case("a ping gets its pong, an unasked pong gets nothing")
def ping_pong():
    for path in ["/ws", "/echo", "/ws/u1", "/client/hubs/chat"]:
        with open_socket(path) as ws:
            for data in [b"", b"abc", b"\x00" * 125]:
                assert ws.ping(data).wait(DEADLINE), f"{path}: no pong for {len(data)} bytes"
            ws.pong(b"unasked")
            assert ws.ping(b"still there").wait(DEADLINE), f"{path}: no pong after an unasked pong"


@case("a close frame from the client is answered with its code")
def close_by_client():
    for path in ["/ws", "/echo", "/ws/u1", "/client/hubs/chat"]:
        for code, reason in [(1000, ""), (1001, "going away"), (3000, "x" * 123), (4999, "tschüs")]:
            with open_socket(path) as ws:
                ws.close(code, reason)
                answer = ws.protocol.close_rcvd
                assert answer and answer.code == code, f"{path}: {code} was answered with {answer}"


@case("compression is offered and declined")
def no_compression():
    for path in ["/ws", "/echo", "/ws/u1"]:
        with open_socket(path, compression="deflate") as ws:
            assert "permessage-deflate" in ws.request.headers["Sec-WebSocket-Extensions"]
            equal(ws.response.headers.get("Sec-WebSocket-Extensions"), None)
            assert ws.ping().wait(DEADLINE)


@case("an unknown subprotocol is not selected, and that is no error")
def unknown_subprotocol():
    for path in ["/ws", "/echo", "/ws/u1", "/client/hubs/chat"]:
        with open_socket(path, subprotocols=["mqtt", "protobuf.webpubsub.azure.v1"]) as ws:
            equal(ws.subprotocol, None)
            assert ws.ping().wait(DEADLINE)


# ---- /ws/{user_id}: the JSON protocol


@case("`connected` is the first frame, with the user and an id of its own")
def connected_first():
    with Peer("/ws/ann") as one, Peer("/ws/ann", subprotocols=[JSON_PROTOCOL]) as two:
        for peer in [one, two]:
            equal(sorted(peer.connected), ["connectionId", "event", "type", "userId"])
            equal({**peer.connected, "connectionId": ""},
                  {"type": "system", "event": "connected", "userId": "ann", "connectionId": ""})
        assert one.connected["connectionId"] and one.connected["connectionId"] != two.connected["connectionId"]
        equal((one.ws.subprotocol, two.ws.subprotocol), (None, JSON_PROTOCOL))


@case("user ids are percent-decoded, in any script, up to 128 bytes")
def user_ids():
    for name in ["Jürgen", "a/b", "日本 語", "50%", "a+b", "x" * 128, "é" * 64]:
        with Peer("/ws/" + urllib.parse.quote(name, safe="+")) as peer:
            equal(peer.connected["userId"], name)


@case("a user id that is empty, too long, not UTF-8 or has control characters is refused")
def bad_user_ids():
    for name in ["", "x" * 129, "%C3%A9" * 65, "%FF", "%C3", "a%00b", "a%0Ab", "%7F"]:
        status = raw_request("GET", f"/ws/{name}", UPGRADE)[0]
        assert status in (400, 404), f"/ws/{name} was answered with {status}"


@case("sendToUser reaches every connection of that user and nobody else")
def send_to_user():
    with users("ann", "bob", "bob", "eve") as (ann, bob1, bob2, eve):
        equal(ann.acknowledged(type="sendToUser", user="bob", data={"x": 1}, ackId=1), success(1))
        ann.send(type="sendToUser", users=["bob", "eve"], dataType="text", data="both")
        for bob in [bob1, bob2]:
            bob.expect(**from_user("ann", {"x": 1}))
            bob.expect(**from_user("ann", "both", "text"))
        eve.expect(**from_user("ann", "both", "text"))


@case("a user named twice in a list receives the message once")
def send_to_users_once():
    with users("ann", "bob") as (ann, bob):
        ann.send(type="sendToUser", users=["bob", "bob"], data="once")
        ann.send(type="sendToUser", user="bob", data="marker")
        bob.expect(**from_user("ann", "once"))
        bob.expect(**from_user("ann", "marker"))


@case("sendToUser reaches the sender's own connections")
def send_to_self():
    with users("ann", "ann") as (one, two):
        one.send(type="sendToUser", user="ann", data=1)
        for peer in [one, two]:
            peer.expect(**from_user("ann", 1))


@case("sendToGroup reaches the members; the sender need not be one")
def send_to_group():
    with users("ann", "bob", "eve") as (ann, bob, eve):
        bob.join("lobby")
        bob.join("lobby")  # a second time changes nothing
        ann.send(type="sendToGroup", group="lobby", data=[1])
        ann.send(type="sendToUser", users=["bob", "eve"], data="marker")
        bob.expect(**from_group("lobby", "ann", [1]))
        bob.expect(**from_user("ann", "marker"))
        eve.expect(**from_user("ann", "marker"))


@case("noEcho keeps a message from its sender's connection only")
def no_echo():
    with users("ann", "ann", "bob") as (ann, other, bob):
        for peer in [ann, other, bob]:
            peer.join("quiet")
        ann.send(type="sendToGroup", group="quiet", data="not back", noEcho=True)
        ann.send(type="sendToGroup", group="quiet", data="back", noEcho=False)
        ann.expect(**from_group("quiet", "ann", "back"))
        for peer in [other, bob]:
            peer.expect(**from_group("quiet", "ann", "not back"))
            peer.expect(**from_group("quiet", "ann", "back"))


@case("leaveGroup: no message comes after its ack")
def leave_group():
    with users("ann", "bob") as (ann, bob):
        bob.join("left")
        equal(bob.acknowledged(type="leaveGroup", group="left", ackId=1), success(1))
        ann.send(type="sendToGroup", group="left", data="missed")
        ann.send(type="sendToUser", user="bob", data="marker")
        bob.expect(**from_user("ann", "marker"))


@case("sendToAll reaches every connection of the hub, with noEcho all but the sender")
def send_to_all():
    with users("ann", "bob", "eve") as peers, Peer("/client/hubs/other", subprotocols=[JSON_PROTOCOL]) as other:
        ann, bob, eve = peers
        ann.send(type="sendToAll", data="not back", noEcho=True)
        ann.send(type="sendToAll", data="back")
        message = {"type": "message", "from": "all", "fromUserId": "ann", "dataType": "json"}
        for peer in [bob, eve]:
            peer.expect(**message, data="not back")
        for peer in [ann, bob, eve]:
            peer.expect(**message, data="back")
        other.join("g")
        other.send(type="sendToGroup", group="g", data="marker")
        equal(other.next()["data"], "marker")


@case("every data type arrives as it was sent; without one it is json")
def data_types():
    payloads = [
        ("text", "Grüße \u0000 \" \\ 😀"), ("text", ""),
        ("binary", base64.b64encode(bytes(range(256))).decode()), ("binary", ""), ("protobuf", "CgRUZXN0"),
        ("json", None), ("json", True), ("json", "text"), ("json", 0), ("json", []), ("json", {"a": {"b": [1, None]}}),
    ]
    with users("ann") as (ann,):
        for data_type, data in payloads:
            ann.send(type="sendToUser", user="ann", dataType=data_type, data=data)
            answer = ann.next()
            assert answer == from_user("ann", data, data_type), f"{data_type} {data!r} was answered with {answer}"
        ann.send(type="sendToUser", user="ann", data={"default": 1})
        ann.expect(**from_user("ann", {"default": 1}))


@case("`data` reaches the receiver character by character")
def verbatim():
    with users("ann") as (ann,):
        ann.join("g")
        for head in ['"sendToUser","user":"ann"', '"sendToGroup","group":"g"', '"sendToAll"']:
            for frame in [f'{{"type":{head},"data":{VERBATIM}}}', f' {{ "data" : {VERBATIM} ,\n"type":{head} }} ']:
                ann.ws.send(frame)
                got = ann.ws.recv(timeout=DEADLINE)
                assert f'"data":{VERBATIM}' in got, f"the data was changed: {got}"


@case("an ackId gets exactly one ack; without one there is none")
def acks():
    with users("ann") as (ann,):
        for ack_id in [0, 1, 2**53 + 1, 2**64 - 1]:
            ann.send(type="joinGroup", group="g", ackId=ack_id)
            ann.expect(**success(ack_id))
        ann.send(type="joinGroup", group="g")
        ann.send(type="leaveGroup", group="g")
        ann.send(type="ping")
        ann.expect(type="pong")


@case("an ackId used before is answered with Duplicate and carried out once")
def duplicates():
    with users("ann", "bob") as (ann, bob):
        frame = {"type": "sendToUser", "user": "bob", "data": "once", "ackId": 7}
        equal(ann.acknowledged(**frame), success(7))
        assert_failed(ann.acknowledged(**frame), 7, "Duplicate")
        assert_failed(ann.acknowledged(type="joinGroup", group="g", ackId=7), 7, "Duplicate")
        bob.send(type="sendToUser", user="bob", data="marker", ackId=7)  # ids belong to one connection
        bob.expect(**from_user("ann", "once"))
        equal(sorted([bob.next(), bob.next()], key=str), sorted([from_user("bob", "marker"), success(7)], key=str))


@case("an event without an event handler is NotFound")
def events():
    with users("ann") as (ann,):
        ack = ann.acknowledged(type="event", event="order", dataType="text", data="x", ackId=1)
        assert_failed(ack, 1, "NotFound")


@case("ping is answered by pong")
def json_ping():
    with users("ann") as (ann,):
        for _ in range(3):
            ann.ws.send('{"type":"ping"}')
            equal(json.loads(ann.ws.recv(timeout=DEADLINE)), {"type": "pong"})


# What is wrong with each stands in it; with an ackId the answer is a failed ack, without one an error frame.
BAD_FRAMES = [
    {"type": "nonsense"},
    {"type": ""},
    {"type": 1},
    {"group": "g"},
    {"type": "joinGroup"},
    {"type": "joinGroup", "group": ""},
    {"type": "joinGroup", "group": " \t"},
    {"type": "joinGroup", "group": "x" * 1025},
    {"type": "joinGroup", "group": 5},
    {"type": "leaveGroup"},
    {"type": "sendToGroup", "data": 1},
    {"type": "sendToGroup", "group": "g"},
    {"type": "sendToGroup", "group": "g", "data": 1, "dataType": "xml"},
    {"type": "sendToGroup", "group": "g", "data": 1, "noEcho": "yes"},
    {"type": "sendToUser", "data": 1},
    {"type": "sendToUser", "user": 5, "data": 1},
    {"type": "sendToUser", "users": ["ann", 5], "data": 1},
    {"type": "sendToUser", "user": "ann"},
    {"type": "sendToUser", "user": "ann", "dataType": "text", "data": {"not": "text"}},
    {"type": "sendToUser", "user": "ann", "dataType": "binary", "data": "!not base64!"},
    {"type": "sendToUser", "user": "ann", "dataType": "binary", "data": 5},
    {"type": "sendToAll"},
    {"type": "event", "data": 1},
]


@case("a bad frame is BadRequest by ack or error frame, changes nothing, and the connection stays")
def bad_requests():
    with users("ann") as (ann,):
        ann.join("g")
        for i, frame in enumerate(BAD_FRAMES):
            try:
                assert_failed(ann.acknowledged(**frame, ackId=i), i, "BadRequest")
                ann.send(**frame)
                answer = ann.next()
                equal(answer, {"type": "error", "error": answer.get("error")})
                assert_error(answer["error"], "BadRequest")
            except Exception as error:
                raise AssertionError(f"{json.dumps(frame)[:100]}: {error or 'nothing came'}") from error
        ann.join("x" * 1024)


@case("what is not one JSON object is a BadRequest error frame, and the connection stays")
def not_json():
    frames = ["", "hello", "{", "[]", "5", "null", '"ping"', '{"type":"ping"}{"type":"ping"}', '{"type":"ping",}',
              "[" * 100_000]
    with users("ann") as (ann,):
        for frame in frames:
            ann.ws.send(frame)
            answer = ann.next()
            equal(answer, {"type": "error", "error": answer.get("error")})
            assert_error(answer["error"], "BadRequest")


@case("a binary frame is unsupported on a JSON address: 1003")
def binary_frame():
    with open_socket("/ws/ann") as ws:
        ws.send(b'{"type":"ping"}')
        close = closed_by_server(ws)
        assert close and close.code == 1003, f"closed with {close}"


@case("an ackId that is not an unsigned 64-bit number carries nothing out")
def bad_ack_ids():
    with users("ann") as (ann,):
        for ack_id in ["-1", "1.5", '"1"', str(2**64), "[]", "true"]:
            ann.ws.send(f'{{"type":"sendToUser","user":"ann","data":1,"ackId":{ack_id}}}')
            answer = ann.next()
            equal(answer["type"], "error")
            assert_error(answer["error"], "BadRequest")


@case("messages of one sender arrive in order, and two members see one order")
def order():
    with users("ann", "bob", "eve", "tom") as (ann, bob, eve, tom):
        for peer in [eve, tom]:
            peer.join("order")

        def talk(peer):
            for i in range(500):
                peer.send(type="sendToGroup", group="order", data=i)

        talkers = [threading.Thread(target=talk, args=[peer]) for peer in [ann, bob]]
        for talker in talkers:
            talker.start()
        seen = [[(m["fromUserId"], m["data"]) for m in (peer.next() for _ in range(1000))] for peer in [eve, tom]]
        for talker in talkers:
            talker.join()
        for name in ["ann", "bob"]:
            equal([i for who, i in seen[0] if who == name], list(range(500)))
        assert seen[0] == seen[1], "two members of a group saw two orders"


@case("a user who left gets nothing, and the others go on")
def gone():
    with users("ann", "eve") as (ann, eve):
        with users("bob") as (bob,):
            bob.join("g")
        eve.join("g")
        ann.send(type="sendToUser", users=["bob", "eve"], data=1)
        ann.send(type="sendToGroup", group="g", data=2)
        eve.expect(**from_user("ann", 1))
        eve.expect(**from_group("g", "ann", 2))


# ---- /client/hubs/{hub}


@case("/client/hubs/{hub} with the subprotocol: anonymous, groups, acks")
def hub_json():
    with ExitStack() as stack:
        ann, bob = [
            stack.enter_context(Peer("/client/hubs/chat", subprotocols=[JSON_PROTOCOL]))
            for _ in range(2)
        ]
        equal(ann.ws.subprotocol, JSON_PROTOCOL)
        equal(sorted(ann.connected), ["connectionId", "event", "type"])
        bob.join("lobby")
        equal(ann.acknowledged(type="sendToGroup", group="lobby", dataType="text", data="hi", ackId=1), success(1))
        bob.expect(type="message", **{"from": "group"}, group="lobby", dataType="text", data="hi")


@case("the first known subprotocol is selected; the reliable one is not, and no token for it is promised")
def hub_subprotocols():
    with Peer("/client/hubs/chat", subprotocols=[RELIABLE_PROTOCOL, JSON_PROTOCOL]) as peer:
        equal(peer.ws.subprotocol, JSON_PROTOCOL)
        assert "reconnectionToken" not in peer.connected
    with open_socket("/client/hubs/chat", subprotocols=[RELIABLE_PROTOCOL]) as ws:
        equal(ws.subprotocol, None)


@case("without a subprotocol a client of a hub is simple: it gets bare payloads and no system frame")
def hub_simple():
    with open_socket("/client/hubs/default") as simple, users("ann") as (ann,):
        simple.send("a message event that nobody handles")
        assert simple.ping().wait(DEADLINE)
        for data_type, data in [("text", "hello"), ("binary", "AAH/"), ("protobuf", "AAH/")]:
            ann.send(type="sendToAll", dataType=data_type, data=data)
        ann.ws.send(f'{{"type":"sendToAll","data":{VERBATIM}}}')
        equal([simple.recv(timeout=DEADLINE) for _ in range(4)], ["hello", b"\0\1\xff", b"\0\1\xff", VERBATIM])


@case("users of /ws/{user_id} are in hub `default`; other hubs do not hear them")
def hub_default():
    with Peer("/client/hubs/default", subprotocols=[JSON_PROTOCOL]) as member, users("ann") as (ann,), \
            Peer("/client/hubs/chat", subprotocols=[JSON_PROTOCOL]) as stranger:
        for peer in [member, ann, stranger]:
            peer.join("g")
        ann.send(type="sendToGroup", group="g", data=1)
        member.expect(**from_group("g", "ann", 1))
        ann.expect(**from_group("g", "ann", 1))
        member.send(type="sendToGroup", group="g", data=2, noEcho=True)
        equal("fromUserId" in ann.next(), False)
        stranger.send(type="sendToGroup", group="g", data="own")
        equal(stranger.next()["data"], "own")


@case("hub names are judged by their pattern")
def hub_names():
    for name in ["a", "Chat_1`,.[x]", "x" * 128]:
        with Peer(f"/client/hubs/{urllib.parse.quote(name)}", subprotocols=[JSON_PROTOCOL]):
            pass
    for name in ["", "1a", "_a", "a-b", "a%20b", "x" * 129, "%C3%A9"]:
        status = raw_request("GET", f"/client/hubs/{name}", UPGRADE)[0]
        assert status in (400, 404), f"hub {name!r} was answered with {status}"


# ---- plain HTTP on the same port


UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
SOCKETS = ["/ws", "/echo", "/ws/ann", "/client/hubs/chat"]


def raw_request(method, path, headers=None):
    """Sends one request and returns status, headers and body. After a 101 the connection is dropped."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(BASE).netloc, timeout=DEADLINE)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = b"" if response.status == 101 else response.read()
    connection.close()
    return response.status, response.headers, body


def assert_refused(method, path, status, headers=None):
    """A refusal is a short text that says nothing of the request, and ends the connection."""
    got, answer, body = raw_request(method, path, headers)
    equal((method, path, got), (method, path, status))
    assert "close" in answer["Connection"].lower().replace(" ", "").split(","), answer["Connection"]
    equal(answer["Content-Length"], str(len(body)))
    assert answer["Content-Type"].startswith("text/plain"), answer["Content-Type"]
    assert 0 < len(body) <= 64 and b"needle" not in body, body
    return answer


@case("the console page, /healthz and /readyz are plain HTTP")
def plain_http():
    status, headers, body = raw_request("GET", "/")
    equal((status, headers.get_content_type()), (200, "text/html"))
    assert b"<html" in body and headers["Content-Security-Policy"], headers
    for path in ["/healthz", "/readyz", "/readyz?verbose=1"]:
        status, _, body = raw_request("GET", path)
        equal((status, body.strip()), (200, b"ok"))


@case("an unknown path is 404, and is not shown back")
def not_found():
    for path in ["/needle", "/ws/a/needle", "/echo/", "//ws", "/WS", "/client/hubs", "/client", "/ws/../echo"]:
        assert_refused("GET", path, 404)
        assert_refused("GET", path, 404, UPGRADE)
        assert_refused("POST", path, 404)
    try:
        open_socket("/needle").close()
        raise AssertionError("/needle was upgraded")
    except InvalidStatus as refusal:
        equal(refusal.response.status_code, 404)


@case("a WebSocket address asked without an upgrade is 426")
def upgrade_required():
    for path in SOCKETS:
        answer = assert_refused("GET", path, 426)
        equal(answer["Upgrade"].lower(), "websocket")


@case("a version other than 13 is 426 and names 13")
def wrong_version():
    for path in SOCKETS:
        for version in ["8", "12", "14", "x"]:
            answer = assert_refused("GET", path, 426, {**UPGRADE, "Sec-WebSocket-Version": version})
            equal(answer["Sec-WebSocket-Version"], "13")


@case("a known path with the wrong method is 405 and allows GET, and HEAD where there is a page")
def wrong_method():
    pages = dict.fromkeys(["/", "/healthz", "/readyz"], "GET, HEAD")
    for path, allowed in {**pages, **dict.fromkeys(SOCKETS, "GET")}.items():
        for method in ["POST", "PUT", "DELETE"]:
            answer = assert_refused(method, path, 405)
            equal(answer["Allow"], allowed)


@case("an upgrade answers with the key of RFC 6455's example")
def accept_key():
    status, headers, _ = raw_request("GET", "/echo", UPGRADE)
    equal((status, headers["Sec-WebSocket-Accept"]), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))


run()
