//! An event handler that is asked over HTTP, once it has said that it may be.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::{Request, Response, Uri};

use super::{
    EventHandler, EventUrl, Failure,
    client::Client,
    cloud_event::{self, Event, Signer, Source},
    permission::{self, Permissions},
    upstream::Answer,
};
use crate::error::Error;

/// The text of a refusal that is passed on to whoever asked for a connection.
const MAX_REASON: usize = 1 << 10;

pub(super) struct Webhook {
    url: EventUrl,
    origin: String,
    /// How long a question may take.
    timeout: Duration,
    client: Client,
    signer: Signer,
    permissions: Permissions,
}

impl Webhook {
    /// # Errors
    /// If the URL is `https` and the system's certificates cannot be read.
    pub(super) fn new(url: &EventUrl, handler: &EventHandler) -> Result<Self, Error> {
        Ok(Self {
            url: url.clone(),
            origin: handler.origin.clone().unwrap_or_else(|| "localhost".to_owned()),
            timeout: handler.timeout,
            client: Client::new(url)?,
            signer: Signer::new(&handler.access_keys),
            permissions: Permissions::default(),
        })
    }

    pub(super) async fn ask(&self, source: &Source, event: &Event) -> Result<Answer, Failure> {
        self.ask_permission(&source.hub).await?;
        let url = self.url(&source.hub, &event.name)?;
        let request = cloud_event::request(url, &self.origin, &self.signer, source, event);
        judge(self.client.send(request).await?)
    }

    /// Half of the time that an event has, so that one that waits for it learns what came of it.
    async fn ask_permission(&self, hub: &str) -> Result<(), Failure> {
        let patience = self.timeout / 2;
        let asked = async {
            timeout(patience, self.negotiate(hub)).await.unwrap_or(Err(Failure::TimedOut))
        };
        let target = if self.url.names_hub() { hub } else { "" };
        self.permissions.require(target, asked).await
    }

    async fn negotiate(&self, hub: &str) -> Result<(), Failure> {
        // As published, `{event}` stands for `validate` here.
        let url = self.url(hub, "validate")?;
        let origin = &self.origin;
        let request: Request<Full<Bytes>> = cloud_event::permission_request(url, origin);
        let answer = self.client.send(request).await?;
        let allowed = answer.status().is_success() && permission::allows(answer.headers(), origin);
        if allowed { Ok(()) } else { Err(Failure::NotAllowed) }
    }

    fn url(&self, hub: &str, event: &str) -> Result<Uri, Failure> {
        let too_long = Failure::Invalid("the event handler's address becomes too long");
        self.url.resolve(hub, event).ok_or(too_long)
    }
}

fn judge(answer: Response<Bytes>) -> Result<Answer, Failure> {
    let (head, body) = answer.into_parts();
    let status = head.status;
    if status.is_client_error() || status.is_server_error() {
        let text = String::from_utf8(body.to_vec()).unwrap_or_default();
        let is_short = text.len() <= MAX_REASON && !text.contains(char::is_control);
        return Err(Failure::Refused(status, if is_short { text } else { String::new() }));
    }
    if !status.is_success() {
        return Err(Failure::Invalid("the event handler answers neither yes nor no"));
    }
    let state = cloud_event::state_in(&head.headers).map_err(Failure::Invalid)?;
    Ok(Answer { headers: head.headers, body, state })
}
