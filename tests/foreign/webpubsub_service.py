"""The official Web PubSub service SDK for Python, unmodified: every operation that it has, with the official client for
Python at the other end.

usage: webpubsub_service.py CONNECTION_STRING [PART OF A CASE'S NAME]
"""

import contextlib
import io
import sys

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import CallbackType, SendMessageError, WebPubSubProtocolType
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from azure.messaging.webpubsubservice._operations._operations import WebPubSubServiceClientOperationsMixin as Generated

from cases import case, equal, run, wait_until

CONNECTION_STRING = sys.argv[1]
HUB = "chat"
ROLES = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]

service = WebPubSubServiceClient.from_connection_string(CONNECTION_STRING, HUB)


class Client:
    """A client with the URL that the service SDK makes for it."""

    def __init__(self, user=None, roles=ROLES, groups=(), token=None):
        self.connected, self.disconnected, self.stopped, self.server, self.group = [], [], [], [], []
        made = service.get_client_access_token(user_id=user, roles=list(roles), groups=list(groups))
        self.sdk = WebPubSubClient(
            f"{made['baseUrl']}?access_token={token or made['token']}", protocol_type=WebPubSubProtocolType.JSON, start_timeout=2.0, ack_timeout=2.0,
            message_retry_total=0, reconnect_retry_total=0, auto_rejoin_groups=False, auto_reconnect=False,
        )
        self.sdk.subscribe(CallbackType.CONNECTED, self.connected.append)
        self.sdk.subscribe(CallbackType.DISCONNECTED, self.disconnected.append)
        self.sdk.subscribe(CallbackType.STOPPED, lambda: self.stopped.append(True))
        self.sdk.subscribe(CallbackType.SERVER_MESSAGE, self.server.append)
        self.sdk.subscribe(CallbackType.GROUP_MESSAGE, self.group.append)

    def __enter__(self):
        self.sdk.open()
        wait_until(lambda: self.connected, "connected")
        return self

    def __exit__(self, *_):
        if self.sdk.is_connected():
            self.sdk.close()
        wait_until(lambda: self.stopped, "stopped")

    @property
    def id(self):
        return self.connected[0].connection_id

    def wait_for(self, data, data_type, source="server"):
        """Waits for the message; its callback runs in a thread of its own."""
        came = getattr(self, source)
        wait_until(lambda: any((m.data, m.data_type) == (data, data_type) for m in came), f"{data!r}, not {came}")
        return next(m for m in came if m.data == data)


@contextlib.contextmanager
def clients(*users, **options):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(user, **options)) for user in users]


def status(operation, *arguments, **options):
    try:
        operation(*arguments, **options)
    except HttpResponseError as error:
        return error.status_code
    raise AssertionError("the operation succeeded")


@case("get_client_access_token: user, roles and groups are those of the token")
def client_access_token():
    with clients("ann", groups=["first"]) as [ann]:
        equal(ann.connected[0].user_id, "ann")
        assert service.group_exists("first")
        ann.sdk.join_group("second")
    with clients("ann", roles=[]) as [ann]:
        try:
            ann.sdk.join_group("second")
        except SendMessageError as error:
            equal(error.error_detail.name, "Forbidden")
        else:
            raise AssertionError("joined without a role")


@case("get_client_access_token: an anonymous client has no user")
def anonymous():
    with clients(None) as [client]:
        equal(client.connected[0].user_id, None)


@case("the server signs a token that it takes")
def generated_token():
    # What the SDK calls for a credential that is no access key; such a credential wants TLS.
    token = Generated.get_client_access_token(service, user_id="ann", roles=ROLES, groups=["g"])["token"]
    with Client("nobody", token=token) as ann:
        equal(ann.connected[0].user_id, "ann")
        assert service.group_exists("g")
    equal(status(Generated.get_client_access_token, service, minutes_to_expire=0), 400)
    equal(status(Generated.get_client_access_token, service, client_protocol="MQTT"), 400)


@case("send_to_all: json, text and bytes arrive as they were sent")
def send_to_all():
    with clients("ann", "bob") as both:
        service.send_to_all({"a": [1, None, "ä"]})
        service.send_to_all("json text", content_type="application/json")
        service.send_to_all("Grüße", content_type="text/plain")
        service.send_to_all(io.BytesIO(b"\x00\xff"), content_type="application/octet-stream")
        for client in both:
            client.wait_for({"a": [1, None, "ä"]}, "json")
            client.wait_for("json text", "json")
            client.wait_for("Grüße", "text")
            client.wait_for(b"\x00\xff", "binary")


@case("send_to_all: excluded connections and a filter leave others alone")
def selected():
    with clients("ann", "bob", "cem", groups=["g"]) as (ann, bob, cem):
        service.send_to_all("1", content_type="text/plain", excluded=[ann.id, bob.id])
        service.send_to_all("2", content_type="text/plain", filter="userId ne 'cem' and 'g' in groups")
        service.send_to_all("end", content_type="text/plain")
        for client in (ann, bob, cem):
            client.wait_for("end", "text")
        wait_until(lambda: [sorted(m.data for m in c.server) for c in (ann, bob, cem)] ==
                   [["2", "end"], ["2", "end"], ["1", "end"]], "the selected ones")
        equal(status(service.send_to_all, "x", content_type="text/plain", filter="userId eq"), 400)


@case("send_to_group: members get it from their group")
def send_to_group():
    with clients("ann", groups=["lobby room/ä"]) as [ann]:
        service.send_to_group("lobby room/ä", {"x": 1})
        service.send_to_group("lobby room/ä", "text", content_type="text/plain", excluded=["nobody"])
        service.send_to_group("lobby room/ä", "not you", content_type="text/plain", filter="userId eq 'bob'")
        service.send_to_group("lobby room/ä", "end", content_type="text/plain")
        message = ann.wait_for({"x": 1}, "json", "group")
        equal((message.group, message.from_user_id), ("lobby room/ä", None))
        ann.wait_for("end", "text", "group")
        assert not any(m.data == "not you" for m in ann.group)


@case("send_to_user and send_to_connection reach these and no others")
def send_to_one():
    with clients("ann", "bob") as (ann, bob):
        service.send_to_user("ann", "for ann", content_type="text/plain", filter="userId ne null")
        service.send_to_connection(bob.id, [1, 2], content_type="application/json")
        service.send_to_all("end", content_type="text/plain")
        ann.wait_for("for ann", "text")
        bob.wait_for([1, 2], "json")
        for client in (ann, bob):
            client.wait_for("end", "text")
            equal(len(client.server), 2)
        service.send_to_connection("nobody", "lost", content_type="text/plain")


@case("connection_exists, user_exists, group_exists")
def existence():
    with clients("ann", groups=["here"]) as [ann]:
        equal((service.connection_exists(ann.id), service.connection_exists("0" * 32)), (True, False))
        equal((service.user_exists("ann"), service.user_exists("nobody")), (True, False))
        equal((service.group_exists("here"), service.group_exists("there")), (True, False))


@case("a connection joins and leaves groups")
def connection_groups():
    with clients("ann") as [ann]:
        service.add_connection_to_group("g1", ann.id)
        service.add_connection_to_group("g2", ann.id)
        assert service.group_exists("g1") and service.group_exists("g2")
        service.remove_connection_from_group("g1", ann.id)
        assert not service.group_exists("g1")
        service.remove_connection_from_all_groups(ann.id)
        assert not service.group_exists("g2")
        equal(status(service.add_connection_to_group, "g1", "nobody"), 404)
        equal(status(service.remove_connection_from_group, "g1", "nobody"), 404)


@case("a user's connections join and leave groups")
def user_groups():
    with clients("ann", "ann") as pair:
        service.add_user_to_group("g1", "ann")
        service.add_user_to_group("g2", "ann")
        equal({m.connection_id for m in service.list_connections(group="g1")}, {c.id for c in pair})
        service.remove_user_from_group("g1", "ann")
        assert not service.group_exists("g1")
        service.remove_user_from_all_groups("ann")
        assert not service.group_exists("g2")
        equal(status(service.add_user_to_group, "g1", "nobody"), 404)


@case("list_connections: all pages, top, and maxpagesize")
def list_connections():
    with clients("ann", "bob", None, "ann", "dee", groups=["list"]) as five:
        everyone = [(c.id, c.connected[0].user_id) for c in five]
        equal([(m.connection_id, m.user_id) for m in service.list_connections(group="list")], everyone)
        equal(len(list(service.list_connections(group="list", top=3))), 3)
        equal(len(list(service.list_connections(group="list", top=9))), 5)
        pages = service.list_connections(group="list", maxpagesize=2).by_page()
        equal([[m.connection_id for m in page] for page in pages],
              [[id for id, _ in everyone[i:i + 2]] for i in (0, 2, 4)])
        pages = service.list_connections(group="list", maxpagesize=2, top=3).by_page()
        equal([len(list(page)) for page in pages], [2, 1])
        equal(list(service.list_connections(group="nobody")), [])


@case("permissions change for a live connection")
def permissions():
    with clients("ann", roles=[]) as [ann]:
        for permission in ("joinLeaveGroup", "sendToGroup"):
            assert not service.has_permission(permission, ann.id, target_name="g")
            service.grant_permission(permission, ann.id, target_name="g")
            assert service.has_permission(permission, ann.id, target_name="g")
            assert not service.has_permission(permission, ann.id)
        ann.sdk.join_group("g")
        ann.sdk.send_to_group("g", "granted", "text")
        ann.wait_for("granted", "text", "group")
        service.revoke_permission("sendToGroup", ann.id, target_name="g")
        try:
            ann.sdk.send_to_group("g", "revoked", "text")
        except SendMessageError as error:
            equal(error.error_detail.name, "Forbidden")
        else:
            raise AssertionError("sent without the permission")
        service.grant_permission("sendToGroup", ann.id)
        assert service.has_permission("sendToGroup", ann.id, target_name="any")
        equal(status(service.grant_permission, "sendToGroup", "nobody"), 404)
        equal(status(service.grant_permission, "nonsense", ann.id), 400)


@case("close_connection closes with the reason")
def close_connection():
    with clients("ann") as [ann]:
        service.close_connection(ann.id, reason="be gone")
        wait_until(lambda: ann.disconnected, "disconnected")
        equal(ann.disconnected[0].message, "be gone")
        wait_until(lambda: not service.connection_exists(ann.id), "the connection's end")


@case("close_user_connections, close_group_connections, close_all_connections spare the excluded ones")
def close_many():
    with clients("ann", "ann", "bob", groups=["g"]) as (one, two, bob):
        service.close_user_connections("ann", excluded=[two.id], reason="user")
        wait_until(lambda: one.disconnected, "disconnected")
        equal(one.disconnected[0].message, "user")
        service.close_group_connections("g", excluded=[bob.id])
        wait_until(lambda: two.disconnected, "disconnected")
        assert service.connection_exists(bob.id)
        service.close_all_connections(reason="all")
        wait_until(lambda: bob.disconnected, "disconnected")


@case("a wrong key, and a hub's name that is none, are refused")
def refused():
    wrong = CONNECTION_STRING.replace("AccessKey=", "AccessKey=x")
    stranger = WebPubSubServiceClient.from_connection_string(wrong, HUB)
    try:
        stranger.send_to_all({})
    except ClientAuthenticationError as error:
        equal((error.status_code, error.error.code), (401, "Unauthorized"))
    else:
        raise AssertionError("let in")
    try:
        service.add_connection_to_group("g", "nobody")
    except ResourceNotFoundError as error:
        equal(error.error.code, "NotFound")
    nonsense = WebPubSubServiceClient.from_connection_string(CONNECTION_STRING, "1 2")
    equal(status(nonsense.send_to_all, {}), 400)


run()
