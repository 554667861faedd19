//! `connect`: the backend decides who gets a connection, before the 101.

use std::collections::BTreeMap;

use data_encoding::{BASE64_MIME, HEXUPPER};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::{
    Failure,
    cloud_event::{Event, Source},
    upstream::{Answer, Upstream},
};
use crate::{
    auth::{Claims, Identity, Rejection, Request},
    metrics::EventKind,
    protocol::is_group_name,
    rights::Rights,
};

/// What the backend made of a client.
#[derive(Debug, Default)]
pub(crate) struct Approval {
    verdict: Verdict,
    pub(crate) state: Option<HeaderValue>,
}

/// The body of a 200. What is not in it stays as the guard has said.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Verdict {
    user_id: Option<String>,
    groups: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    subprotocol: Option<String>,
}

impl Upstream {
    /// Asks whether a client may have a connection, and as whom.
    ///
    /// # Errors
    /// The handler's own status if it refuses, 502 if there is no answer to be had, 504 if it
    /// takes too long.
    pub(crate) async fn admit(
        &self,
        request: &Request,
        claims: Option<&Claims>,
        source: &Source,
        deadline: Instant,
    ) -> Result<Approval, Rejection> {
        let question = Question::new(request, claims);
        // Maps of strings are always valid JSON.
        let body = serde_json::to_vec(&question).unwrap_or_default();
        let event = Event::system(EventKind::Connect, 1, body);
        let deadline = deadline.min(self.deadline());
        self.send(source, &event, deadline, Approval::read).await.map_err(rejection)
    }
}

impl Approval {
    fn read(answer: Answer) -> Result<Self, Failure> {
        let verdict = if answer.body.is_empty() {
            Verdict::default()
        } else {
            let invalid =
                Failure::Invalid("the event handler's answer to connect is not as it should be");
            // serde would read the fields from an array too, one behind the other.
            let is_object = answer.body.trim_ascii_start().starts_with(b"{");
            let verdict = is_object.then(|| serde_json::from_slice(&answer.body).ok()).flatten();
            verdict.ok_or(invalid)?
        };
        let names = verdict.groups.iter().flatten();
        if names.into_iter().any(|name| !is_group_name(name)) {
            return Err(Failure::Invalid("the event handler gives a group that can be none"));
        }
        Ok(Self { verdict, state: answer.state })
    }

    /// The subprotocol that the handler selects; an empty one stands for none.
    pub(crate) fn subprotocol(&self) -> Option<&str> {
        self.verdict.subprotocol.as_deref().filter(|name| !name.is_empty())
    }

    /// Who the client is now. Roles take the place of those that it had; groups are added.
    pub(crate) fn apply(self, mut identity: Identity) -> Identity {
        if let Some(user) = self.verdict.user_id.filter(|user| !user.is_empty()) {
            identity = identity.with_user(user);
        }
        if let Some(roles) = self.verdict.roles {
            identity = identity.with_rights(Rights::of_roles(roles));
        }
        if let Some(groups) = self.verdict.groups {
            let all = [identity.groups(), &groups].concat();
            identity = identity.with_groups(all);
        }
        identity
    }
}

/// What the handler learns about a client: each value is a list, as published.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    claims: Claims,
    query: BTreeMap<String, Vec<String>>,
    headers: BTreeMap<String, Vec<String>>,
    subprotocols: Vec<String>,
    client_certificates: Vec<Certificate>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    /// The SHA-1 of the DER form: a name, and no proof of anything.
    thumbprint: String,
    content: String,
}

impl Certificate {
    fn new(der: &[u8]) -> Self {
        let body = BASE64_MIME.encode(der);
        let content = format!("-----BEGIN CERTIFICATE-----\r\n{body}-----END CERTIFICATE-----\r\n");
        Self { thumbprint: HEXUPPER.encode(&Sha1::digest(der)), content }
    }
}

impl Question {
    fn new(request: &Request, claims: Option<&Claims>) -> Self {
        let mut headers = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in request.http.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str().to_owned()).or_default().push(value);
        }
        Self {
            claims: claims.cloned().unwrap_or_default(),
            query: query(request.http.uri().query().unwrap_or_default()),
            headers,
            subprotocols: request.subprotocols().map(str::to_owned).collect(),
            client_certificates: request
                .certificate
                .iter()
                .map(|der| Certificate::new(der))
                .collect(),
        }
    }
}

fn query(text: &str) -> BTreeMap<String, Vec<String>> {
    let decode = |part: &str| {
        let part = part.replace('+', " ");
        percent_decode_str(&part).decode_utf8_lossy().into_owned()
    };
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(decode(name)).or_default().push(decode(value));
    }
    all
}

/// The text of a refusal is the handler's own where it blames the client, as published. What it
/// says of its own faults is not for clients.
fn rejection(failure: Failure) -> Rejection {
    let status = match &failure {
        Failure::Refused(status, _) => status.as_u16(),
        Failure::TimedOut => 504,
        Failure::Unreachable | Failure::Invalid(_) | Failure::NotAllowed => 502,
    };
    match failure {
        Failure::Refused(code, text) if code.is_client_error() && !text.is_empty() => {
            Rejection::new(status, text)
        }
        other => Rejection::new(status, other.text()),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::{HeaderMap, StatusCode};

    use super::*;
    use crate::rights::Action;

    fn approval(body: &str) -> Result<Approval, Failure> {
        let body = body.to_owned().into();
        Approval::read(Answer { headers: HeaderMap::new(), body, state: None })
    }

    #[test]
    fn what_is_not_said_stays_as_it_was() {
        for body in ["", "{}", r#"{"userId":"","roles":null,"groups":null,"subprotocol":""}"#] {
            let approval = approval(body).unwrap();
            assert_eq!(approval.subprotocol(), None, "{body}");
            let before = Identity::user("ann").with_groups(vec!["a".to_owned()]);
            assert_eq!(approval.apply(before.clone()), before, "{body}");
        }
    }

    #[test]
    fn roles_are_replaced_and_groups_are_added() {
        let body = r#"{"userId":"bob","groups":["b"],"roles":["webpubsub.sendToAll"],"more":1}"#;
        let before = Identity::anonymous().with_groups(vec!["a".to_owned()]);
        let identity = approval(body).unwrap().apply(before);
        assert_eq!(identity.user_id(), Some("bob"));
        assert_eq!(identity.groups(), ["a", "b"]);
        assert!(identity.rights().allow(Action::SendToAll));
        assert!(!identity.rights().allow(Action::SendToUser));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_none() {
        for body in ["nonsense", "[]", "7", r#"{"userId":7}"#, r#"{"groups":[" "]}"#] {
            assert!(matches!(approval(body), Err(Failure::Invalid(_))), "{body}");
        }
    }

    #[test]
    fn a_query_is_decoded_as_a_form() {
        let query = query("a=1&b=x%20y+z&a=2&c&=d&");
        assert_eq!(query["a"], ["1", "2"]);
        assert_eq!(query["b"], ["x y z"]);
        assert_eq!(
            (&query["c"][..], &query[""][..]),
            (&[String::new()][..], &["d".to_owned()][..])
        );
    }

    #[test]
    fn a_client_is_told_what_is_its_own_fault() {
        let refused = |status, text: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            rejection(Failure::Refused(status, text.to_owned()))
        };
        assert_eq!(refused(403, "not you"), Rejection::new(403, "not you"));
        assert_eq!(refused(401, ""), Rejection::new(401, "the event handler refused"));
        assert_eq!(refused(500, "at line 7"), Rejection::new(500, "the event handler refused"));
        assert_eq!(rejection(Failure::TimedOut).status, 504);
        assert_eq!(rejection(Failure::Unreachable).status, 502);
    }
}
