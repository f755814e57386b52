//! Clients: HTTP by hyper, HTTP by hand, WebSockets.
use crate::standin::{Body, Zeros};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn instance(&self) -> &str {
        self.header("x-stillframe-instance")
    }

    /// The gateway's own error: (status, kind, message).
    pub fn error(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        let json = self.json();
        let error = &json["error"];
        assert_eq!(error["status"], self.status);
        assert_eq!(error["service"], "demo");
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["kind", "message", "service", "status"]);
        let text = |v: &Value| v.as_str().unwrap().to_string();
        (self.status, text(&error["kind"]), text(&error["message"]))
    }
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e| match e {}).boxed()
}

/// So many bytes, chunked.
pub fn zeros(bytes: u64) -> Body {
    Zeros::new(bytes).boxed()
}

/// A connection for one request after another.
pub struct Connection {
    sender: SendRequest<Body>,
    address: SocketAddr,
    _driver: Driver,
}

struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Connection, Failed> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { sender, address, _driver: Driver(driver) })
    }

    pub async fn stream(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, Failed> {
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", self.address.to_string().parse()?);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    pub async fn send(&mut self, request: Request<Body>) -> Result<Answer, Failed> {
        let response = self.stream(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

pub async fn try_send(address: SocketAddr, request: Request<Body>) -> Result<Answer, Failed> {
    Connection::open(address).await?.send(request).await
}

pub async fn send(address: SocketAddr, request: Request<Body>) -> Answer {
    try_send(address, request).await.unwrap()
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, request("GET", path, &[], full(""))).await
}

pub async fn get_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(address, request("GET", path, headers, full(""))).await
}

pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    let body = full(body.to_string());
    send(address, request("POST", path, &[("content-type", "application/json")], body)).await
}

/// Sends bytes as they are and reads until the other side ends.
pub async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_all(&mut stream).await
}

pub async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Up to the empty line.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A frame of RFC 6455; a client's has a mask.
pub fn frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        n @ 0..126 => out.push(masked | n as u8),
        n @ 126..65536 => {
            out.push(masked | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(masked | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    match mask {
        None => out.extend_from_slice(payload),
        Some(mask) => {
            out.extend_from_slice(&mask);
            out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        }
    }
    out
}

pub trait ReadFrame {
    /// The next frame's opcode and payload; `None` at the end.
    fn read_frame(&mut self) -> impl Future<Output = Option<(u8, Vec<u8>)>> + Send;
}

impl<T: AsyncRead + Unpin + Send> ReadFrame for T {
    async fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.read_u16().await.ok()?;
        let (opcode, masked) = ((head >> 8) as u8 & 0x0f, head & 0x80 != 0);
        let length = match head & 0x7f {
            126 => u64::from(self.read_u16().await.ok()?),
            127 => self.read_u64().await.ok()?,
            n => u64::from(n),
        };
        let mut mask = [0; 4];
        if masked {
            self.read_exact(&mut mask).await.ok()?;
        }
        let mut payload = vec![0; length as usize];
        self.read_exact(&mut payload).await.ok()?;
        payload.iter_mut().enumerate().for_each(|(i, b)| *b ^= mask[i % 4]);
        Some((opcode, payload))
    }
}

pub struct WebSocket {
    pub stream: TcpStream,
    pub head: String,
}

pub const HANDSHAKE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl WebSocket {
    pub async fn open(address: SocketAddr, path: &str) -> std::io::Result<WebSocket> {
        WebSocket::open_with(address, path, "").await
    }

    pub async fn open_with(address: SocketAddr, path: &str, headers: &str) -> std::io::Result<WebSocket> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{HANDSHAKE}{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream).await;
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(std::io::Error::other(head));
        }
        Ok(WebSocket { stream, head })
    }

    pub async fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(&frame(1, text.as_bytes(), Some([1, 2, 3, 4]))).await
    }

    pub async fn hear(&mut self) -> Option<String> {
        let (_, payload) = self.stream.read_frame().await?;
        Some(String::from_utf8(payload).unwrap())
    }

    /// The first message, which names the instance.
    pub async fn instance(&mut self) -> String {
        let hello: Value = serde_json::from_str(&self.hear().await.unwrap()).unwrap();
        hello["data"]["of"].as_str().unwrap().to_string()
    }

    /// Whatever still comes, up to the end.
    pub async fn stream_ended(&mut self) {
        while self.stream.read_frame().await.is_some() {}
    }

    /// The closing handshake of RFC 6455 (1.4).
    pub async fn close(mut self) -> std::io::Result<()> {
        self.stream.write_all(&frame(8, &1000u16.to_be_bytes(), Some([1, 2, 3, 4]))).await?;
        while let Some((opcode, _)) = self.stream.read_frame().await {
            if opcode == 8 {
                return Ok(());
            }
        }
        Err(std::io::Error::other("it ended without a Close frame"))
    }
}
