//! The gateway's own WebSocket to an instance, over which everything comes that the instance says of the jobs that
//! it was given.
use crate::formats::comfy::api::paths;
use crate::formats::comfy::socket;
use crate::gateway::link::ConnectError;
use crate::sys::address::Address;
use crate::sys::stream::{self, Stream};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io;
use std::time::Duration;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// A preview, or what a node says, may be large.
const LARGEST: usize = 16 << 20;
const BUFFER: usize = 16 << 10;

pub struct Upstream {
    socket: WebSocketStream<Stream>,
}

#[derive(Debug, Clone)]
pub enum Event {
    Text {
        /// The message's `type`; empty where it has none.
        kind: String,
        /// The job that it is about, where it says so.
        prompt: Option<String>,
        data: Value,
        /// As it came.
        raw: Bytes,
    },
    Binary(Bytes),
}

impl Event {
    fn of_text(raw: Bytes) -> Event {
        // What is not JSON is passed on as it is, and says nothing to us.
        let mut message: Value = serde_json::from_slice(&raw).unwrap_or_default();
        let kind = message["type"].as_str().unwrap_or_default().to_string();
        let data = message.get_mut("data").map(Value::take).unwrap_or_default();
        let prompt = data.get("prompt_id").and_then(Value::as_str).map(str::to_string);
        Event::Text { kind, prompt, data, raw }
    }

    /// The job that it is about, where it says so.
    pub fn prompt(&self) -> Option<String> {
        match self {
            Event::Text { prompt, .. } => prompt.clone(),
            Event::Binary(message) => socket::job_of_preview(message),
        }
    }
}

impl Upstream {
    /// Connects as the client `sid`, and says that it knows previews with metadata.
    pub async fn connect(address: &Address, sid: &str, limit: Duration) -> Result<Upstream, ConnectError> {
        match tokio::time::timeout(limit, open(address, sid)).await {
            Err(_) => Err(ConnectError::Slow),
            Ok(Err(e)) if stream::is_refused(&e) => Err(ConnectError::Refused),
            Ok(Err(e)) => Err(ConnectError::Other(e)),
            Ok(Ok(upstream)) => Ok(upstream),
        }
    }

    /// What comes next; none: it has ended. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            // Pings are answered on the way.
            match self.socket.next().await?.ok()? {
                Message::Text(text) => return Some(Event::of_text(text.into())),
                Message::Binary(message) => return Some(Event::Binary(message)),
                _ => {}
            }
        }
    }

    /// Asks for a sign of life, which `next` passes over. An error: it has ended.
    pub async fn ping(&mut self) -> io::Result<()> {
        self.socket.send(Message::Ping(Bytes::new())).await.map_err(io::Error::other)
    }
}

async fn open(address: &Address, sid: &str) -> io::Result<Upstream> {
    let host = address.host();
    let path = format!("{}?clientId={}", paths::WEBSOCKET, encoded(sid));
    let request = Request::builder()
        .uri(format!("ws://{host}{path}"))
        .header("host", host)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .body(())
        .map_err(io::Error::other)?;
    let stream = Stream::connect(address).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let (mut socket, _) =
        client_async_with_config(request, stream, Some(config)).await.map_err(io::Error::other)?;
    let flags = socket::feature_flags(&json!({socket::PREVIEW_METADATA: true}));
    socket.send(Message::text(flags.to_string())).await.map_err(io::Error::other)?;
    Ok(Upstream { socket })
}

/// For a query (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener, UnixStream};
    use tokio_tungstenite::accept_hdr_async;
    use tokio_tungstenite::tungstenite::handshake::server;

    const SOON: Duration = Duration::from_secs(5);

    type Instance = WebSocketStream<UnixStream>;

    /// The instance's side, and what was asked for.
    #[allow(clippy::result_large_err)]
    async fn accepted(listener: &UnixListener) -> (Instance, String) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut asked = String::new();
        let note = |request: &server::Request, response: server::Response| {
            asked = request.uri().to_string();
            assert!(!request.headers().contains_key("sec-websocket-extensions"));
            Ok(response)
        };
        let socket = accept_hdr_async(stream, note).await.unwrap();
        (socket, asked)
    }

    async fn both() -> (Upstream, Instance) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let address = Address::Unix(path);
        let (upstream, accepted) =
            tokio::join!(Upstream::connect(&address, "a b/\u{fc}", SOON), accepted(&listener));
        let (mut instance, asked) = accepted;
        assert_eq!(asked, "/ws?clientId=a%20b%2F%C3%BC");
        let first: Value =
            serde_json::from_str(instance.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(first, json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}}));
        (upstream.unwrap(), instance)
    }

    #[tokio::test]
    async fn what_an_instance_says_comes_in_order() {
        let (mut upstream, mut instance) = both().await;
        let executing = r#"{"type": "executing", "data": {"node": null, "prompt_id": "p"}}"#;
        instance.send(Message::text(executing)).await.unwrap();
        let preview = [b"\0\0\0\x04\0\0\0\x12".as_slice(), br#"{"prompt_id": "q"}"#, b"PICTURE"].concat();
        instance.send(Message::binary(preview.clone())).await.unwrap();
        instance.send(Message::Ping("are you there".into())).await.unwrap();
        instance.send(Message::text("no JSON")).await.unwrap();
        instance.send(Message::text("[1]")).await.unwrap();
        let Some(Event::Text { kind, prompt, data, raw }) = upstream.next().await else { panic!() };
        assert_eq!((kind.as_str(), prompt.as_deref()), ("executing", Some("p")));
        assert_eq!((data["node"].is_null(), &raw[..]), (true, executing.as_bytes()));
        let event = upstream.next().await.unwrap();
        assert_eq!(event.prompt().as_deref(), Some("q"));
        let Event::Binary(bytes) = event else { panic!() };
        assert_eq!(bytes, preview);
        for text in ["no JSON", "[1]"] {
            let Some(Event::Text { kind, prompt, data, raw }) = upstream.next().await else { panic!() };
            assert_eq!((kind.as_str(), prompt, data), ("", None, Value::Null));
            assert_eq!(raw, text);
        }
        upstream.ping().await.unwrap();
        assert_eq!(instance.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));
        assert!(instance.next().await.unwrap().unwrap().is_ping());
        drop(instance);
        assert!(upstream.next().await.is_none());
        assert!(upstream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_large_message_comes_whole_and_one_too_large_ends_it() {
        let (mut upstream, mut instance) = both().await;
        let sending = tokio::spawn(async move {
            instance.send(Message::binary(vec![7; LARGEST])).await.unwrap();
            // The other side may end before all of it is sent.
            let _ = instance.send(Message::binary(vec![7; LARGEST + 1])).await;
        });
        let Some(Event::Binary(bytes)) = upstream.next().await else { panic!() };
        assert_eq!((bytes.len(), bytes[LARGEST - 1]), (LARGEST, 7));
        assert!(upstream.next().await.is_none());
        drop(upstream);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn why_there_is_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.sock");
        let address = Address::Unix(path.clone());
        let connect = |limit| Upstream::connect(&address, "a", limit);
        assert!(matches!(connect(SOON).await, Err(ConnectError::Refused)));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(connect(Duration::from_millis(50)).await, Err(ConnectError::Slow)));
        drop(listener.accept().await);
        let refuse = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1_000]).await;
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (refused, ()) = tokio::join!(connect(SOON), refuse);
        let Err(ConnectError::Other(why)) = refused else { panic!() };
        assert!(why.to_string().contains("404"), "{why}");
    }

    #[tokio::test]
    async fn an_instance_on_a_port() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let accept = async {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_tungstenite::accept_async(stream).await.unwrap()
        };
        let (upstream, instance) = tokio::join!(Upstream::connect(&address, "a", SOON), accept);
        drop(instance);
        assert!(upstream.unwrap().next().await.is_none());
    }
}
