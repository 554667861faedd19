//! fastwebsockets as its own examples use it: hyper's opening handshake, `read_frame` and `write_frame`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use peers::Subscribers;

type All = Arc<Subscribers<Arc<Vec<u8>>>>;

#[tokio::main]
async fn main() -> io::Result<()> {
    let all = All::default();
    peers::accept_all(|stream| {
        let all = Arc::clone(&all);
        let service = service_fn(move |request| answer(request, Arc::clone(&all)));
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades()
    })
    .await
}

async fn answer(mut request: Request<Incoming>, all: All) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    let path = request.uri().path().to_owned();
    tokio::spawn(async move {
        match path.as_str() {
            "/sub" => subscribe(upgraded, &all).await,
            "/pub" => publish(upgraded, &all).await,
            _ => echo(upgraded).await,
        }
    });
    Ok(response)
}

async fn echo(upgraded: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn subscribe(upgraded: upgrade::UpgradeFut, all: &All) -> Result<(), WebSocketError> {
    let (mut reader, mut writer) = upgraded.await?.split(tokio::io::split);
    let (number, mut receiver) = all.add();
    let writing = async move {
        while let Some(message) = receiver.recv().await {
            writer.write_frame(Frame::text(Payload::Borrowed(&message))).await?;
        }
        Ok::<_, WebSocketError>(())
    };
    let reading = async move {
        let nothing = &mut |_| std::future::ready(Ok::<(), Infallible>(()));
        loop {
            match reader.read_frame(nothing).await {
                Ok(frame) if frame.opcode != OpCode::Close => {}
                _ => return,
            }
        }
    };
    tokio::select! {
        _ = writing => {}
        () = reading => {}
    }
    all.remove(number);
    Ok(())
}

async fn publish(upgraded: upgrade::UpgradeFut, all: &All) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => all.publish(&Arc::new(frame.payload.to_vec())),
            _ => {}
        }
    }
}
