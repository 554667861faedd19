//! A client that writes any bytes and looks at every byte that comes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixStream},
};

use super::{
    ACCEPT, ClientFrame, HttpAnswer, ServerFrame, disconnected, upgrade, upgrade_with, within,
};

/// A socket, and what was read from it and not looked at yet.
#[derive(Debug)]
pub struct RawClient<S = TcpStream> {
    pub stream: S,
    unread: Vec<u8>,
}

/// How a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server closed it (FIN).
    Closed,
    /// The server reset it (RST).
    Reset,
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a TCP connection", TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|error| panic!("cannot connect: {error}"));
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// From this address of our own: each has ports of its own.
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let stream = within("a TCP connection", socket.connect(address)).await;
        Self::over(stream.unwrap_or_else(|error| panic!("cannot connect: {error}")))
    }

    /// With a receive buffer of about that many bytes: a reader that does not read soon fills it.
    pub async fn connect_with_small_buffer(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        let stream = within("a TCP connection", socket.connect(address)).await;
        Self::over(stream.unwrap_or_else(|error| panic!("cannot connect: {error}")))
    }

    /// Connects and performs the opening handshake.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.handshake(path).await;
        client
    }

    /// Ends the connection with a reset, as a peer does that has crashed.
    pub fn abort(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl RawClient<UnixStream> {
    pub async fn connect_unix(path: &Path) -> Self {
        Self::over(within("a Unix connection", UnixStream::connect(path)).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// If the server does not take them all in time.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.unwrap_or_else(|error| panic!("cannot write: {error}"));
    }

    /// Writes bytes to a server that may have closed the connection.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("the server to take what is written", self.stream.write_all(bytes.as_ref())).await
    }

    /// Writes a frame.
    pub async fn send(&mut self, frame: ClientFrame) {
        self.write(frame.encode()).await;
    }

    /// Writes frames in one piece.
    pub async fn send_all(&mut self, frames: impl IntoIterator<Item = ClientFrame>) {
        let bytes: Vec<u8> = frames.into_iter().flat_map(|frame| frame.encode()).collect();
        self.write(bytes).await;
    }

    /// Writes the head of an opening handshake.
    pub async fn handshake(&mut self, path: &str) -> HttpAnswer {
        self.expect_101(upgrade(path)).await
    }

    /// [`handshake`](Self::handshake) with more header fields; see [`upgrade_with`].
    pub async fn handshake_with(&mut self, path: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        self.expect_101(upgrade_with(path, fields)).await
    }

    async fn expect_101(&mut self, head: String) -> HttpAnswer {
        let answer = self.request(head).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        answer
    }

    /// Writes a request and reads its answer.
    pub async fn request(&mut self, request: impl AsRef<[u8]>) -> HttpAnswer {
        self.write(request).await;
        self.read_answer().await
    }

    /// Reads an answer: its head, and its body unless it is a 101. The body must be as long as
    /// `Content-Length` says, and the server must close the connection behind it.
    pub async fn read_answer(&mut self) -> HttpAnswer {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more("an answer").await.expect("an answer before the end");
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let mut answer = HttpAnswer::parse(&head);
        if answer.status != 101 {
            let mut ended = None;
            while ended.is_none() {
                ended = self.read_more("the end behind an answer").await.err();
            }
            assert_eq!(ended, Some(End::Closed), "behind {answer:?}");
            answer.body = std::mem::take(&mut self.unread);
            let length = answer.header("content-length").expect("a Content-Length");
            assert_eq!(length.parse(), Ok(answer.body.len()), "Content-Length of {answer:?}");
        }
        answer
    }

    /// The next frame.
    ///
    /// # Panics
    /// If the connection ends instead.
    pub async fn read_frame(&mut self) -> ServerFrame {
        match self.next_frame().await {
            Ok(frame) => frame,
            Err(end) => panic!("{end:?} where a frame was expected"),
        }
    }

    /// The next frame, or how the connection ended.
    pub async fn next_frame(&mut self) -> Result<ServerFrame, End> {
        loop {
            if let Some((frame, length)) = ServerFrame::decode(&self.unread) {
                self.unread.drain(..length);
                return Ok(frame);
            }
            self.read_more("a frame").await.inspect_err(|_| {
                let rest = self.unread.escape_ascii();
                assert!(self.unread.is_empty(), "the end within a frame: {rest}");
            })?;
        }
    }

    /// The next frame must be this text.
    pub async fn expect_text(&mut self, text: &str) {
        assert_eq!(self.read_frame().await, ServerFrame::text(text));
    }

    /// The next frame must be a close frame: its code and reason.
    pub async fn expect_close(&mut self) -> (u16, String) {
        let frame = self.read_frame().await;
        assert!(!frame.masked && frame.fin && frame.rsv == 0, "{frame:?}");
        frame.close_code_and_reason()
    }

    /// The next frame must be a close frame: its code and reason. It is answered, and then the
    /// connection must end.
    pub async fn expect_close_and_answer(&mut self) -> (u16, String) {
        let close = self.expect_close().await;
        self.finish_close().await;
        close
    }

    /// A client of the JSON protocol is told why, before the close frame says it again.
    pub async fn expect_disconnected_and_close(&mut self) -> (u16, String) {
        let told = self.read_frame().await;
        let (code, reason) = self.expect_close().await;
        assert_eq!(told, ServerFrame::text(disconnected(&reason)), "before {code}");
        (code, reason)
    }

    /// The first close frame: its code and reason. All frames before it are passed over.
    pub async fn expect_close_behind_others(&mut self) -> (u16, String) {
        loop {
            let frame = self.read_frame().await;
            if frame.is_close() {
                return frame.close_code_and_reason();
            }
        }
    }

    /// Nothing more may come but the end.
    pub async fn expect_end(&mut self) -> End {
        match self.next_frame().await {
            Err(end) => end,
            Ok(frame) => panic!("{frame:?} where the end was expected"),
        }
    }

    /// Answers the server's close frame, and expects the end of the connection.
    pub async fn finish_close(&mut self) {
        self.send(ClientFrame::close(1000, "")).await;
        assert_eq!(self.expect_end().await, End::Closed);
    }

    async fn read_more(&mut self, what: &str) -> Result<(), End> {
        match within(what, self.stream.read_buf(&mut self.unread)).await {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}
