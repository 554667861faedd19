//! The calls of the REST API: what they do, and their statuses.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use hubnerite::Config;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use support::{
    JsonClient, ack, connect, disconnected, eventually, expect_failure, next_message,
    rest::{Caller, error, in_seconds, start_with_control},
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

fn id(client: &JsonClient) -> String {
    client.connected["connectionId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_message_reaches_its_receivers_as_the_body_was_and_counts_them() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut ann = server.user("ann").await;
    let mut bare = connect(server.address, "/client/hubs/default").await;
    ann.join("g", 1).await;
    let mut caller = Caller::connect(control).await;
    let body = "{\"z\": 1.0,  \"a\":12345678901234567890}";
    let answer =
        caller.call("POST", "/api/hubs/default/:send?api-version=2024-12-01", JSON, body).await;
    assert_eq!((answer.status, &answer.body[..]), (202, &b""[..]));
    assert_eq!(answer.header("x-hubnerite-recipients"), Some("2"));
    assert_eq!(answer.header("x-hubnerite-dropped"), Some("0"));
    let expected =
        format!(r#"{{"type":"message","from":"server","dataType":"json","data":{body}}}"#);
    assert_eq!(ann.next_text().await, expected);
    assert_eq!(next_message(&mut bare).await, Message::text(body));
    for (path, from) in [
        ("groups/g/:send".to_owned(), r#""group","group":"g""#),
        ("users/ann/:send".to_owned(), r#""server""#),
        (format!("connections/{}/:send", id(&ann)), r#""server""#),
    ] {
        let answer =
            caller.call("POST", &format!("/api/hubs/default/{path}"), TEXT, "a \"b\" ä").await;
        assert_eq!(answer.header("x-hubnerite-recipients"), Some("1"), "{path}");
        let data = r#""dataType":"text","data":"a \"b\" ä""#;
        assert_eq!(ann.next_text().await, format!(r#"{{"type":"message","from":{from},{data}}}"#));
    }
    let bytes = "application/octet-stream";
    caller.call("POST", "/api/hubs/default/:send", bytes, "\0ab").await;
    ann.expect(&json!({"type":"message","from":"server","dataType":"binary","data":"AGFi"})).await;
    assert_eq!(next_message(&mut bare).await, Message::binary(&b"\0ab"[..]));
    for nobody in ["groups/x/:send", "users/x/:send", "connections/x/:send"] {
        let answer = caller.call("POST", &format!("/api/hubs/default/{nobody}"), TEXT, "x").await;
        assert_eq!((answer.status, answer.header("x-hubnerite-recipients")), (202, Some("0")));
    }
    ann.expect_nothing().await;
    drop((ann, bare));
    server.stop().await;
}

#[tokio::test]
async fn excluded_and_filter_choose_among_the_receivers() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut ann = server.user("ann").await;
    let mut bob = server.user("bob").await;
    bob.join("g", 1).await;
    let mut caller = Caller::connect(control).await;
    let mut send = async |query: &str| {
        let path = format!("/api/hubs/default/:send?{query}");
        let answer = caller.call("POST", &path, TEXT, query).await;
        answer.header("x-hubnerite-recipients").map(str::to_owned)
    };
    let both = format!("excluded={}&excluded={}&excluded=nobody", id(&ann), id(&bob));
    assert_eq!(send(&both).await.as_deref(), Some("0"));
    assert_eq!(send(&format!("excluded={}", id(&ann))).await.as_deref(), Some("1"));
    assert_eq!(send("filter=%27g%27+in+groups").await.as_deref(), Some("1"));
    assert_eq!(send("filter=userId%20eq%20%27ann%27").await.as_deref(), Some("1"));
    assert_eq!(send("messageTtlSeconds=300").await.as_deref(), Some("2"));
    for query in ["filter=%27g%27+in+groups", "messageTtlSeconds=300"] {
        let first = bob.next().await;
        assert_eq!(first["data"] == query, query != "filter=%27g%27+in+groups", "{first}");
        if query == "filter=%27g%27+in+groups" {
            assert_eq!(bob.next().await["data"], query);
        }
    }
    assert_eq!(ann.next().await["data"], "filter=userId%20eq%20%27ann%27");
    assert_eq!(ann.next().await["data"], "messageTtlSeconds=300");
    drop((ann, bob));
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_named_by_field_and_rule() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(control).await;
    for (path, kind, body, status, field) in [
        (":send?filter=userId+eq", TEXT, "x", 400, "filter: expected userId, connectionId, null"),
        (":send?filter=userId+eq", TEXT, "x", 400, "at character 10"),
        (":send?messageTtlSeconds=301", TEXT, "x", 400, "messageTtlSeconds: must be"),
        (":send?filter=%ff", TEXT, "x", 400, "query: must be"),
        (":send", JSON, "{", 400, "body: is not JSON"),
        (":send", JSON, "", 400, "body: is not JSON"),
        (":send", "text/html", "x", 415, "Content-Type: must be"),
        ("groups/%20/:send", TEXT, "x", 400, "group: must be 1 to 1024"),
        ("groups/%ff/:send", TEXT, "x", 400, "group: must be percent-encoded"),
        (":addToGroups", JSON, r#"{"groups":["g"],"filter":"x"}"#, 400, "at character 1"),
        (":addToGroups", JSON, r#"{"groups":[" "]}"#, 400, "group: must be"),
        (":addToGroups", JSON, r#"{"group":["g"]}"#, 400, "missing field `groups`"),
        (":generateToken?minutesToExpire=0", TEXT, "", 400, "minutesToExpire: must be"),
        (":generateToken?clientType=MQTT", TEXT, "", 400, "clientType: must be"),
        (":nonsense", TEXT, "", 404, "no such call"),
    ] {
        let answer = caller.call("POST", &format!("/api/hubs/default/{path}"), kind, body).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(error(&answer).0, status);
        assert!(answer.text().contains(field), "{path}: {}", answer.text());
    }
    let answer = caller.call("POST", "/api/hubs/1/:send", TEXT, "x").await;
    assert_eq!(error(&answer), (400, "BadRequest".to_owned()));
    let answer = caller.call("GET", "/api/hubs/default/:send", TEXT, "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    let answer =
        caller.call("GET", "/api/hubs/default/connections?continuationToken=x", TEXT, "").await;
    assert_eq!(error(&answer), (400, "BadRequest".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn groups_are_joined_and_left_and_who_is_unknown_is_404() {
    let config = Config { max_groups: 3, ..Config::default() };
    let (server, control) = start_with_control(config).await;
    let ann = server.user("ann").await;
    let connection = id(&ann);
    let mut caller = Caller::connect(control).await;
    for (method, path, status) in [
        ("HEAD", "groups/g".to_owned(), 404),
        ("PUT", format!("groups/g/connections/{connection}"), 200),
        ("HEAD", "groups/g".to_owned(), 200),
        ("DELETE", format!("groups/g/connections/{connection}"), 204),
        ("DELETE", format!("groups/g/connections/{connection}"), 204),
        ("HEAD", "groups/g".to_owned(), 404),
        ("PUT", "users/ann/groups/a%2Fb".to_owned(), 200),
        ("HEAD", "groups/a%2Fb".to_owned(), 200),
        ("DELETE", "users/ann/groups/a%2Fb".to_owned(), 204),
        ("HEAD", "groups/a%2Fb".to_owned(), 404),
        ("PUT", "users/ann/groups/1".to_owned(), 200),
        ("PUT", "users/ann/groups/2".to_owned(), 200),
        ("PUT", "users/ann/groups/3".to_owned(), 200),
        ("PUT", "users/ann/groups/4".to_owned(), 400),
        ("DELETE", format!("connections/{connection}/groups"), 204),
        ("HEAD", "groups/1".to_owned(), 404),
        ("PUT", "users/ann/groups/1".to_owned(), 200),
        ("DELETE", "users/ann/groups".to_owned(), 204),
        ("HEAD", "groups/1".to_owned(), 404),
        ("PUT", "groups/g/connections/nobody".to_owned(), 404),
        ("DELETE", "groups/g/connections/nobody".to_owned(), 404),
        ("PUT", "users/nobody/groups/g".to_owned(), 404),
        ("DELETE", "users/nobody/groups/g".to_owned(), 204),
        ("HEAD", format!("connections/{connection}"), 200),
        ("HEAD", "connections/nobody".to_owned(), 404),
        ("HEAD", "users/ann".to_owned(), 200),
        ("HEAD", "users/nobody".to_owned(), 404),
    ] {
        let path = format!("/api/hubs/default/{path}");
        assert_eq!(caller.status(method, &path).await, status, "{method} {path}");
    }
    let other_hub = format!("/api/hubs/other/connections/{connection}");
    assert_eq!(caller.status("HEAD", &other_hub).await, 404);
    drop(ann);
    server.stop().await;
}

#[tokio::test]
async fn groups_of_a_filter_are_joined_and_left() {
    let (server, control) = start_with_control(Config::default()).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let mut caller = Caller::connect(control).await;
    let body = r#"{"groups":["g","h"],"filter":"startswith(userId, 'a')"}"#;
    let answer = caller.call("POST", "/api/hubs/default/:addToGroups", JSON, body).await;
    assert_eq!(answer.status, 200);
    let members = caller.get("/api/hubs/default/groups/h/connections").await;
    assert_eq!(members, json!({"value": [{"connectionId": id(&ann), "userId": "ann"}]}));
    let body = r#"{"groups":["g"]}"#;
    let answer = caller.call("POST", "/api/hubs/default/:removeFromGroups", JSON, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(caller.status("HEAD", "/api/hubs/default/groups/g").await, 404);
    assert_eq!(caller.status("HEAD", "/api/hubs/default/groups/h").await, 200);
    drop((ann, bob));
    server.stop().await;
}

#[tokio::test]
async fn connections_are_closed_with_1000_and_the_reason() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(control).await;
    let mut ann = server.user("ann").await;
    let path = format!("/api/hubs/default/connections/{}?reason=be+gone", id(&ann));
    assert_eq!(caller.status("DELETE", &path).await, 204);
    assert_eq!(ann.next_text().await, disconnected("be gone"));
    assert_eq!(ann.close().await, (1000, "be gone".to_owned()));
    let path = "/api/hubs/default/connections/nobody";
    assert_eq!(caller.status("DELETE", path).await, 204);
    for scope in ["", "users/eve/", "groups/g/"] {
        let (mut eve, mut spared) = (server.user("eve").await, server.user("eve").await);
        eve.join("g", 1).await;
        spared.join("g", 1).await;
        let excluded = id(&spared);
        let path = format!("/api/hubs/default/{scope}:closeConnections?excluded={excluded}");
        assert_eq!(caller.status("POST", &path).await, 204);
        assert_eq!(eve.close().await.0, 1000);
        spared.expect_nothing().await;
    }
    drop(ann);
    server.stop().await;
}

#[tokio::test]
async fn permissions_of_a_live_connection_change() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut ann = server.user("ann").await;
    let mut caller = Caller::connect(control).await;
    let path = |permission: &str, target: &str| {
        format!("/api/hubs/default/permissions/{permission}/connections/{}{target}", id(&ann))
    };
    let (one, all) = (path("sendToGroup", "?targetName=g"), path("sendToGroup", ""));
    let other = path("joinLeaveGroup", "?targetName=g");
    let nonsense = path("nonsense", "");
    assert_eq!(caller.status("HEAD", &one).await, 200);
    assert_eq!(caller.status("DELETE", &one).await, 204);
    assert_eq!(caller.status("HEAD", &one).await, 404);
    assert_eq!(caller.status("HEAD", &all).await, 200);
    assert_eq!(caller.status("HEAD", &other).await, 200);
    let frame = json!({"type":"sendToGroup","group":"g","data":1,"ackId":1});
    expect_failure(&ann.ask(&frame).await, Some(1), "Forbidden", "revoked for g");
    let frame = json!({"type":"sendToGroup","group":"h","data":1,"ackId":2});
    assert_eq!(ann.ask(&frame).await, ack(2));
    assert_eq!(caller.status("PUT", &one).await, 200);
    let frame = json!({"type":"sendToGroup","group":"g","data":1,"ackId":3});
    assert_eq!(ann.ask(&frame).await, ack(3));
    assert_eq!(caller.status("PUT", &nonsense).await, 400);
    for (method, status) in [("PUT", 404), ("DELETE", 404), ("HEAD", 404)] {
        let path = "/api/hubs/default/permissions/sendToGroup/connections/nobody";
        assert_eq!(caller.status(method, path).await, status, "{method}");
    }
    drop(ann);
    server.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_that_follow_each_other() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut members = Vec::new();
    for _ in 0..5 {
        let mut member = server.user("ann").await;
        member.join("a group", 1).await;
        members.push(member);
    }
    let ids: Vec<_> = members.iter().map(id).collect();
    let mut caller = Caller::connect(control).await;
    for (query, sizes) in [
        ("", vec![5]),
        ("?maxpagesize=2", vec![2, 2, 1]),
        ("?maxpagesize=5", vec![5]),
        ("?top=3", vec![3]),
        ("?top=3&maxpagesize=2&api-version=1", vec![2, 1]),
        ("?top=9&maxpagesize=4", vec![4, 1]),
    ] {
        for list in ["groups/a%20group/connections", "connections"] {
            let mut path = format!("/api/hubs/default/{list}{query}");
            let (mut found, mut pages) = (Vec::new(), Vec::new());
            loop {
                let page = caller.get(&path).await;
                let value = page["value"].as_array().unwrap();
                pages.push(value.len());
                found.extend(
                    value.iter().map(|one| one["connectionId"].as_str().unwrap().to_owned()),
                );
                let Some(next) = page["nextLink"].as_str() else { break };
                assert!(next.starts_with(&caller.url("/api/")), "{next}");
                path = next.strip_prefix(&caller.url("")).unwrap().to_owned();
            }
            assert_eq!(pages, sizes, "{query}");
            assert_eq!(found, ids[..found.len()], "{query}");
        }
    }
    let counted = caller.get("/api/hubs/default").await;
    assert_eq!(counted, json!({"connections": 5, "nodes": 1}));
    for wrong in ["maxpagesize=0", "maxpagesize=201", "top=0", "top=x"] {
        let path = format!("/api/hubs/default/connections?{wrong}");
        assert_eq!(caller.status("GET", &path).await, 400, "{wrong}");
    }
    drop(members);
    server.stop().await;
}

#[tokio::test]
async fn an_operator_sees_what_a_connection_does() {
    let config = Config { ping_interval: std::time::Duration::from_secs(1), ..Config::default() };
    let (server, control) = start_with_control(config).await;
    let mut ann = JsonClient::in_hub(server.address, "chat").await;
    ann.join("g", 1).await;
    let mut caller = Caller::connect(control).await;
    caller.call("POST", "/api/hubs/chat/:send", JSON, "1").await;
    ann.next().await;
    let hub = server.hub.named("chat");
    // It is pinged once it has been silent, and answers with what it sends next.
    assert!(matches!(next_message(&mut ann.socket).await, Message::Ping(_)));
    ann.expect_nothing().await;
    let answered = || hub.connections(None, 1)[0].round_trip.is_some();
    eventually("a pong", true, answered).await;
    let listed = caller.get("/api/hubs/chat/connections").await;
    let one = &listed["value"][0];
    assert_eq!(one["connectionId"], id(&ann));
    assert_eq!((&one["userId"], &one["groups"]), (&json!(null), &json!(["g"])));
    assert_eq!(one["subprotocol"], "json.webpubsub.azure.v1");
    assert!(one["remoteAddress"].as_str().unwrap().starts_with("127.0.0.1:"), "{one}");
    let since = one["openedAt"].as_i64().unwrap();
    assert!((in_seconds(-60)..=in_seconds(1)).contains(&since), "{one}");
    assert_eq!(one["queuedBytes"], 0);
    let (sent, got) = (one["messagesIn"].as_u64().unwrap(), one["messagesOut"].as_u64().unwrap());
    // A join and a ping; connected, the ack, the message and the pong.
    assert_eq!((sent, got), (2, 4), "{one}");
    assert!(one["roundTripMs"].as_f64().unwrap() > 0.0, "{one}");
    drop(ann);
    eventually("members", 0, || hub.counts().members).await;
    assert_eq!(caller.get("/api/hubs/chat/connections").await, json!({"value": []}));
    server.stop().await;
}

#[tokio::test]
async fn a_generated_token_lets_a_client_in_with_its_rights() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(control).await;
    let path = "/api/hubs/chat/:generateToken?userId=ann&role=webpubsub.sendToAll&group=g&group=h&minutesToExpire=5";
    let answer = caller.call("POST", path, TEXT, "").await;
    let token: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let token = token["token"].as_str().unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    let expiry = claims["exp"].as_i64().unwrap();
    assert!((in_seconds(290)..=in_seconds(301)).contains(&expiry), "{claims}");
    assert_eq!(claims["aud"], caller.url("/client/hubs/chat"));
    assert_eq!((&claims["sub"], &claims["role"]), (&json!("ann"), &json!(["webpubsub.sendToAll"])));
    assert_eq!(claims["webpubsub.group"], json!(["g", "h"]));
    server.stop().await;
}
