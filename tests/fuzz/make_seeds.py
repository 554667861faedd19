#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: one file for each form that the fuzzer should start from."""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "seeds"


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def head(name, text, piece=3):
    write("head", name, bytes([piece]) + text.replace("\n", "\r\n").encode("latin-1"))


USUAL = (
    "Host: localhost\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
)
head("upgrade", f"GET /ws HTTP/1.1\n{USUAL}\n")
head("user", f"GET /ws/a%20b?x=y HTTP/1.1\n{USUAL}Origin: http://localhost\n\nbehind it", 255)
head("absolute", f"GET http://localhost/ws?x HTTP/1.1\n{USUAL}\n", 1)
head("old", "GET /healthz HTTP/1.0\n\n")
head("lengths", "GET /ws HTTP/1.1\nHost: h\nContent-Length: 0\nContent-Length: 5\n\nhello")
head("chunked", "GET /ws HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n0\n\n")
head("folded", "GET /ws HTTP/1.1\nHost: h\nX: a\n b\n\n")
head("hosts", "GET /ws HTTP/1.1\nHost: a\nHost: b\n\n")
head("bytes", "GET /ws HTTP/1.1\nHost: h\nX: \x80\xff\t\n\n")
write("head", "bare", b"\x05GET /ws HTTP/1.1\nHost: h\n\n")

for index, path in enumerate(
    ["/", "/ws", "/ws/alice", "/ws/J%C3%BCrgen", "/ws/a%2Fb", "/ws/%2e%2e", "/ws/%", "/ws/", "//ws", "/client/hubs/chat", "/a/x/%00"]
):
    write("route", f"path{index}", path.encode())

frames = [
    {"type": "joinGroup", "group": "lobby", "ackId": 1},
    {"type": "leaveGroup", "group": "lobby"},
    {"type": "sendToGroup", "group": "lobby", "noEcho": True, "data": {"z": 1.0, "a": [None, "\u00e4"]}},
    {"type": "sendToGroup", "group": "lobby", "dataType": "text", "data": "hello \"you\""},
    {"type": "sendToGroup", "group": "lobby", "dataType": "binary", "data": "AP8="},
    {"type": "sendToUser", "user": "b", "users": ["a", "b"], "data": None, "ackId": 2},
    {"type": "sendToAll", "dataType": "protobuf", "data": ""},
    {"type": "event", "event": "e", "data": 1},
    {"type": "sequenceAck", "sequenceId": 18446744073709551615},
    {"type": "ping"},
    {"type": "joinGroup", "group": 7, "ackId": 1},
]
for index, frame in enumerate(frames):
    write("json", f"frame{index}", json.dumps(frame).encode())
write("json", "spaces", b' {"type" : "sendToAll" , "data" : { "n" : 12345678901234567890 , "e" : 1e2 } } ')
write("json", "escapes", rb'{"t\u0079pe":"sendToAll","data":"\u0000\ud83d\ude00"}')


def frame(opcode, payload=b"", fin=True, mask=b"\x37\xfa\x21\x3d", rsv=0, length=None):
    length = len(payload) if length is None else length
    out = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if length < 126:
        out += bytes([bit | length])
    elif length < 65536:
        out += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        out += bytes([bit | 127]) + struct.pack(">Q", length)
    return out + mask + bytes(b ^ mask[i % 4] if mask else b for i, b in enumerate(payload))


streams = {
    "text": frame(1, b"hello"),
    "many": frame(1, b"one") + frame(2, b"two") + frame(9, b"ping") + frame(10) + frame(1, b"three"),
    "fragments": frame(1, "\u00e4".encode()[:1], fin=False) + frame(9) + frame(0, "\u00e4".encode()[1:]),
    "too_many": frame(1, b"x") + frame(1, fin=False) + frame(0, fin=False) * 6,
    "just_as_many": frame(2, b"x", fin=False) + frame(0, b"y", fin=False) * 3 + frame(0, b"z") + frame(1, b"next"),
    "limit": frame(2, b"x" * 1000) + frame(2, b"x" * 1001),
    "sum": frame(2, b"x" * 600, fin=False) + frame(0, b"x" * 600),
    "close": frame(8, struct.pack(">H", 1000) + b"bye") + frame(1, b"behind"),
    "close_one": frame(8, b"x"),
    "close_reserved": frame(8, struct.pack(">H", 1005)),
    "utf8": frame(1, b"\xed\xa0\x80"),
    "unmasked": frame(1, b"x", mask=b""),
    "reserved": frame(1, b"x", rsv=4) + frame(3),
    "huge": frame(2, length=2**64 - 1),
    "nested": frame(1, b"x", fin=False) + frame(1, b"y"),
    "long_ping": frame(9, b"x" * 126),
}
for name, stream in streams.items():
    write("wire", name, bytes([3]) + stream)

header = {"alg": "HS256", "typ": "JWT"}
claims = {"sub": "alice", "exp": 4102444800, "aud": "http://h/client/hubs/chat", "role": ["webpubsub.sendToGroup"]}
sign = lambda header, claims: b"\x01" + json.dumps(header).encode() + b"\n" + json.dumps(claims).encode()
write("token", "good", sign(header, claims))
write("token", "none", sign({"alg": "none"}, claims))
write("token", "public", sign({"alg": "RS256"}, claims))
write("token", "expired", sign(header, claims | {"exp": 1}))
write("token", "early", sign(header, claims | {"nbf": 4102444800}))
write("token", "endless", sign(header, claims | {"exp": 1e300}))
write("token", "elsewhere", sign(header, claims | {"aud": ["http://h/client/hubs/other"]}))
write("token", "groups", sign(header, claims | {"webpubsub.group": ["a", "b"], "role": "x"}))
write("token", "unsigned", b"\x00eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo0MTAyNDQ0ODAwfQ.")
write("token", "nonsense", b"\x00...")

message = b'{"type":"message","from":"server","dataType":"text","data":"hello"}'
envelopes = {
    "backend": ({"v": 1, "to": {"group": "lobby"}}, [message]),
    "node": ({"v": 1, "node": "3ea79122b96c1aa9", "id": 7, "hub": "chat", "to": {"user": "b\n\u00e4"}}, [message, b"", message]),
    "users": ({"v": 1, "to": {"users": ["a", "b"]}, "kind": "text"}, [b"hello"]),
    "all": ({"v": 1, "to": {"all": True}, "kind": "binary", "excluded": ["x"], "filter": "userId eq 'a'"}, [b"\xff\n"]),
    "connection": ({"v": 1, "to": {"connection": "3ea79122b96c1aa90000000000000001"}}, []),
    "utf8": ({"v": 1, "to": {"nodes": True}}, [b"\xed\xa0\x80"]),
}
for name, (header, payloads) in envelopes.items():
    header["lengths"] = [len(payload) for payload in payloads]
    write("envelope", name, json.dumps(header).encode() + b"\n" + b"".join(payloads))
write("envelope", "huge", b'{"v":1,"to":{"all":true},"lengths":[18446744073709551615,1]}\nx')
