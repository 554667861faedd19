//! The control port: what a backend asks over HTTP, without a socket of its own.
//!
//! hyper reads and writes the requests; everything between is a table of plain functions, for the
//! hub never waits. Two tasks of ours remain: the deadlines that hyper does not have, and to tell
//! backends from clients on two ports that take both.

mod access;
mod lists;
mod members;
mod metrics;
mod ports;
mod query;
mod reply;
mod rest;
mod send;
mod stream;
mod token;

use std::{convert::Infallible, future::poll_fn, pin::Pin, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Method, StatusCode,
    body::{Body, Incoming as RequestBody},
    header::{self, HeaderName},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::timeout};

pub(crate) use self::ports::Port;
use self::{
    access::Access,
    metrics::Format,
    reply::{Problem, Reply},
    rest::{Asked, Call, Place, Routes},
    stream::Stream,
};
use crate::{
    access_keys::AccessKeys,
    admission::Admission,
    answer,
    listener::Incoming,
    route::Params,
    server::{self, Shared},
    socket::Socket,
};

/// The largest request body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// The largest request head: every `excluded` connection stands in the URL, and the URL once more
/// in the token.
const MAX_HEAD: usize = 64 << 10;

/// Connections on the control port at once; further ones are answered 503. They fit in the files
/// that the limit of connections on the data port leaves.
const MAX_CONNECTIONS: usize = 192;

/// What is read of a request that is refused unread, so that its sender comes to the answer.
const MAX_UNREAD: usize = 4 << 20;

/// What the control port knows.
pub(crate) struct Control {
    access: Access,
    routes: Routes,
    permits: Arc<Semaphore>,
}

impl Control {
    pub(crate) fn new(keys: AccessKeys) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { access: Access::new(keys), routes: Routes::new(), permits }
    }

    /// Connections on the control port.
    pub(crate) fn connections(&self) -> usize {
        MAX_CONNECTIONS - self.permits.available_permits()
    }

    /// Ready when no connection is left on the control port.
    pub(crate) async fn gone(&self) {
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        // It is never closed; but were it, there would be nothing to wait for.
        let _ = self.permits.acquire_many(all).await;
    }
}

/// Starts the task of a connection on the control port.
pub(crate) fn welcome(incoming: Incoming, shared: &Arc<Shared>) {
    let Some(control) = &shared.control else { return };
    server::begin(Admission::on_control(&control.permits), incoming, shared);
}

/// Serves one connection to its end. `read` is what has been read of its first request.
pub(crate) async fn serve(socket: Socket, read: Vec<u8>, port: Port, server: &Shared) {
    let Some(control) = &server.control else { return };
    let io = TokioIo::new(Stream::new(socket, read, server.config.send_timeout));
    let service = service_fn(|request| {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let reply = control.answer(&head, body, port, server).await;
            log::debug!("{} on the {port} port: {}", head.method, reply.status().as_u16());
            Ok::<_, Infallible>(reply.into_response())
        })
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(server.config.open_timeout)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD * 2);
    let mut connection = http.serve_connection(io, service);
    let mut end = tokio::select! {
        end = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(end),
        () = server.ending.begun() => None,
    };
    if end.is_none() {
        // The request that is under way is still answered.
        Pin::new(&mut connection).graceful_shutdown();
        end = Some(poll_fn(|cx| connection.poll_without_shutdown(cx)).await);
    }
    if let Some(Err(error)) = end {
        log::debug!("a backend's connection ended: {error}");
    }
    let socket = connection.into_parts().io.into_inner().into_socket();
    answer::part(socket, MAX_UNREAD).await;
}

impl Control {
    async fn answer(&self, head: &Parts, body: RequestBody, port: Port, server: &Shared) -> Reply {
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        match head.uri.path() {
            "/api/health" | "/healthz" if reads => Reply::text(StatusCode::OK, "ok\n"),
            "/readyz" if reads => readiness(server),
            "/metrics" if reads && port == Port::Control => self.metrics(head, server),
            path if path.starts_with("/api/") => self.answer_call(path, head, body, server).await,
            _ => Problem::not_found("there is no such address").into_reply(),
        }
    }

    /// Asked without a token: Prometheus has none, and there is nobody's name in it.
    fn metrics(&self, head: &Parts, server: &Shared) -> Reply {
        let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let format = Format::accepted(accept);
        let page = metrics::page(&server.hub, self.routes.counts(), format);
        Reply::page(page, format.content_type())
    }

    async fn answer_call(
        &self,
        path: &str,
        head: &Parts,
        body: RequestBody,
        server: &Shared,
    ) -> Reply {
        let found = self.routes.find(&head.method, path);
        let place = found.as_ref().map_or(Place::NONE, |(place, ..)| *place);
        let found = found.map(|(_, call, params)| (call, params));
        let called = self.call(path, found, head, body, server).await;
        let reply = called.unwrap_or_else(Problem::into_reply);
        self.routes.count(place, reply.status().as_u16());
        reply
    }

    /// Who may not call is not told what there is.
    async fn call(
        &self,
        path: &str,
        found: Result<(Call, Params), Problem>,
        head: &Parts,
        body: RequestBody,
        server: &Shared,
    ) -> Result<Reply, Problem> {
        let base = self.access.check(path, head)?;
        let (call, params) = found?;
        let body = read_body(body, server).await?;
        let asked = Asked::new(head, &params, body, base, &server.hub, self.access.keys())?;
        let reply = call(&asked).await.unwrap_or_else(Problem::into_reply);
        Ok(match asked.silent() {
            0 => reply,
            silent => reply.with(HeaderName::from_static("x-hubnerite-silent-nodes"), silent),
        })
    }
}

fn readiness(server: &Shared) -> Reply {
    if server.ending.is_announced() {
        Reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if server.is_full() {
        Reply::text(StatusCode::SERVICE_UNAVAILABLE, "full\n")
    } else if server.is_cut_off() {
        Reply::text(StatusCode::SERVICE_UNAVAILABLE, "backplane\n")
    } else {
        Reply::text(StatusCode::OK, "ok\n")
    }
}

/// A body that says it is too large is not waited for, nor asked for (`Expect: 100-continue`).
async fn read_body(body: RequestBody, server: &Shared) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let collected = Limited::new(body, MAX_BODY).collect();
    match timeout(server.config.message_timeout, collected).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::bad("body: it is malformed, or ended too early")),
        Err(_) => {
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(Problem::new(status, "RequestTimeout", "body: it took too long"))
        }
    }
}

fn too_large() -> Problem {
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    Problem::new(status, "PayloadTooLarge", format!("body: must have at most {MAX_BODY} bytes"))
}
