//! An event handler: an HTTP server that is not ours, which answers as a test says.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hubnerite::EventHandler;
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{AbortHandle, JoinSet},
};

use super::within;

/// A request that has come, and what it carries.
#[derive(Debug, Clone)]
pub struct Heard {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Heard {
    /// A header field, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The event's name without prefix.
    pub fn event(&self) -> &str {
        self.header("ce-eventname")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub type Reply = Response<Full<Bytes>>;

/// An answer with this status, without a body.
pub fn status(code: u16) -> Reply {
    Response::builder().status(code).body(Full::default()).unwrap()
}

/// A 200 with this body.
pub fn reply(content_type: &str, body: impl Into<Bytes>) -> Reply {
    Response::builder().header("content-type", content_type).body(Full::new(body.into())).unwrap()
}

type Script = Arc<dyn Fn(Heard) -> BoxFuture<'static, Reply> + Send + Sync>;

/// Dropped, it is down: its address refuses connections.
pub struct Backend {
    pub address: SocketAddr,
    heard: UnboundedReceiver<Heard>,
    task: AbortHandle,
}

impl Backend {
    /// Allows all origins, and answers events as `script` says.
    pub async fn start<F>(script: impl Fn(Heard) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script)
    }

    pub fn on<F>(listener: TcpListener, script: impl Fn(Heard) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::with_options(listener, move |heard| {
            let is_event = heard.method == Method::POST;
            let answer = is_event.then(|| script(heard));
            async move {
                let Some(answer) = answer else {
                    let allowed = Response::builder().header("webhook-allowed-origin", "*");
                    return allowed.body(Full::default()).unwrap();
                };
                answer.await
            }
        })
    }

    /// Answers `OPTIONS` too as `script` says.
    pub fn with_options<F>(
        listener: TcpListener,
        script: impl Fn(Heard) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let (sender, heard) = unbounded_channel();
        let script: Script = Arc::new(move |heard| Box::pin(script(heard)));
        let task = tokio::spawn(serve(listener, sender, script)).abort_handle();
        Self { address, heard, task }
    }

    /// Answers everything with this.
    pub async fn answering(answer: Reply) -> Self {
        Self::start(move |_| std::future::ready(answer.clone())).await
    }

    /// An event handler at this address; `path` may have `{hub}` and `{event}` in it.
    pub fn handler(&self, path: &str) -> EventHandler {
        handler_at(self.address, path)
    }

    /// The next request, `OPTIONS` among them.
    pub async fn next_request(&mut self) -> Heard {
        within("a request to the event handler", self.heard.recv()).await.unwrap()
    }

    /// The next event.
    pub async fn next(&mut self) -> Heard {
        loop {
            let heard = self.next_request().await;
            if heard.method == Method::POST {
                return heard;
            }
        }
    }

    /// The next event, which must have this name.
    pub async fn expect(&mut self, event: &str) -> Heard {
        let heard = self.next().await;
        assert_eq!(heard.event(), event, "{heard:?}");
        heard
    }

    /// Nothing has come that was not looked at.
    pub fn expect_nothing(&mut self) {
        if let Ok(heard) = self.heard.try_recv() {
            panic!("one request too many: {heard:?}");
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn handler_at(address: SocketAddr, path: &str) -> EventHandler {
    EventHandler::new(format!("http://{address}{path}").parse().unwrap())
}

/// Accepts connections and does this with each. Dropped, all are gone.
pub async fn raw_backend<F>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut all = JoinSet::new();
    all.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    (address, all)
}

async fn serve(listener: TcpListener, heard: UnboundedSender<Heard>, script: Script) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (heard, script) = (heard.clone(), Arc::clone(&script));
        let service = service_fn(move |request: Request<Incoming>| {
            let (heard, script) = (heard.clone(), Arc::clone(&script));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let path = parts.uri.to_string();
                let one = Heard { method: parts.method, path, headers: parts.headers, body };
                let _ = heard.send(one.clone());
                Ok::<_, Infallible>(script(one).await)
            }
        });
        connections.spawn(async move {
            // The daemon may leave whenever it likes.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
