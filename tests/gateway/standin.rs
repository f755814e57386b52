//! An instance that answers in ComfyUI's shapes (`tests/golden/comfyui-wire`), and on paths below `/test` does
//! what instances do at their worst.
use crate::client::{ReadFrame, frame};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use stillframe::protocol::control::{Address, Target};
use stillframe::sys::stream::Stream;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;

pub type Body = BoxBody<Bytes, std::io::Error>;

pub struct StandIn {
    /// The folder of its socket.
    _dir: Option<tempfile::TempDir>,
    pub target: Target,
    pub state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
pub struct State {
    pub name: String,
    /// What health checks hear.
    pub ill: AtomicBool,
    /// Pictures that /view has.
    pub pictures: Mutex<Vec<String>>,
    /// Jobs, by id.
    pub jobs: Mutex<BTreeMap<String, Value>>,
    /// Method and path of every request but health checks, in order.
    pub seen: Mutex<Vec<String>>,
    /// Bodies of requests to /interrupt and the like.
    pub bodies: Mutex<Vec<String>>,
    pub received: AtomicU64,
    pub checks: AtomicU64,
    /// ComfyUI's list of clients: who is on it gets messages.
    pub sockets: Mutex<HashMap<String, u64>>,
    /// What happened to sockets, in order.
    pub socket_events: Mutex<Vec<String>>,
    next: AtomicU64,
}

impl State {
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

pub fn target(slot: u32, generation: u64, address: impl Into<Address>) -> Target {
    Target { id: format!("s{slot}-g{generation}"), address: address.into(), slot, generation }
}

impl StandIn {
    pub async fn start(slot: u32, generation: u64) -> StandIn {
        let dir = tempfile::tempdir().unwrap();
        let socket = Address::Unix(dir.path().join("http.sock"));
        let mut started = StandIn::at(slot, generation, &socket).await;
        started._dir = Some(dir);
        started
    }

    pub async fn at(slot: u32, generation: u64, address: &Address) -> StandIn {
        let listener = match address {
            Address::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.unwrap()),
            Address::Unix(path) => {
                let _ = std::fs::remove_file(path);
                Listener::Unix(UnixListener::bind(path).unwrap(), path.clone())
            }
        };
        StandIn::over(slot, generation, listener)
    }

    fn over(slot: u32, generation: u64, listener: Listener) -> StandIn {
        let target = target(slot, generation, listener.address());
        let state = Arc::new(State { name: target.id.clone(), ..State::default() });
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            // Connections end with their owner: a stopped instance is gone at once, as ComfyUI is.
            let mut connections = JoinSet::new();
            loop {
                let stream = listener.accept().await;
                connections.spawn(serve(shared.clone(), stream));
                while connections.try_join_next().is_some() {}
            }
        });
        StandIn { _dir: None, target, state, accepting }
    }

    /// Ends it, with all it has.
    pub async fn stop(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    pub fn address(&self) -> Address {
        self.target.address.clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn address(&self) -> Address {
        match self {
            Listener::Tcp(listener) => listener.local_addr().unwrap().into(),
            Listener::Unix(_, path) => Address::Unix(path.clone()),
        }
    }

    async fn accept(&self) -> Stream {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                Stream::Tcp(stream)
            }
            Listener::Unix(listener, _) => Stream::Unix(listener.accept().await.unwrap().0),
        }
    }
}

async fn serve(state: Arc<State>, stream: Stream) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { answer(state, request).await }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None);
    let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

pub fn text(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).map_err(|e| match e {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn json_of(value: &Value) -> Response<Body> {
    let mut response = text(200, value.to_string());
    response.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().unwrap());
    response
}

/// A body of so many bytes, never in memory as a whole.
pub struct Zeros {
    pub left: u64,
    pub chunk: Bytes,
}

impl Zeros {
    pub fn new(left: u64) -> Zeros {
        Zeros { left, chunk: Bytes::from(vec![0; 64 * 1024]) }
    }
}

impl hyper::body::Body for Zeros {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let n = self.left.min(self.chunk.len() as u64);
        self.left -= n;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.slice(..n as usize)))))
    }
}

/// Parts with a pause before each.
pub fn slowly(parts: Vec<Frame<Bytes>>, pause: Duration) -> Body {
    let (tell, hear) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for part in parts {
            tokio::time::sleep(pause).await;
            if tell.send(Ok(part)).await.is_err() {
                return;
            }
        }
    });
    Parts(hear).boxed()
}

struct Parts(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx)
    }
}

pub fn query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let query = request.uri().query()?;
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v))
}

fn shown(headers: &HeaderMap) -> Value {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.to_string()).or_default().push(value);
    }
    json!(all)
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_string();
    if path == "/system_stats" {
        state.checks.fetch_add(1, Ordering::SeqCst);
        let ill = state.ill.load(Ordering::SeqCst);
        return Ok(if ill { text(500, "ill") } else { json_of(&json!({ "system": { "os": "linux" } })) });
    }
    let line = format!("{} {}", request.method(), request.uri());
    state.seen.lock().unwrap().push(line);
    let plain = path.strip_prefix("/api").unwrap_or(&path);
    Ok(match (request.method(), plain) {
        (&Method::POST, "/prompt") => prompt(&state, request).await,
        (&Method::GET, "/prompt") => json_of(&json!({ "exec_info": { "queue_remaining": 0 } })),
        (&Method::GET, "/queue") => json_of(&json!({ "queue_running": [], "queue_pending": [] })),
        (&Method::POST, "/interrupt" | "/queue" | "/history") => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            state.bodies.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
            text(200, "")
        }
        (&Method::GET | &Method::HEAD, "/view") => {
            let name = query(&request, "filename").unwrap_or_default();
            let has = state.pictures.lock().unwrap().iter().any(|p| p == name);
            if has { text(200, format!("{name} of {}", state.name)) } else { text(404, "") }
        }
        (_, "/ws") => socket(state, request),
        (_, other) => match (other.strip_prefix("/history/"), other.strip_prefix("/jobs/")) {
            (Some(id), _) => {
                let jobs = state.jobs.lock().unwrap();
                json_of(&jobs.get(id).map_or(json!({}), |job| json!({ id: job })))
            }
            (_, Some(id)) if state.jobs.lock().unwrap().contains_key(id) => json_of(&json!({ "id": id })),
            (_, Some(_)) => text(404, r#"{"error": "Job not found"}"#),
            _ => test(&state, request).await,
        },
    })
}

async fn prompt(state: &State, request: Request<Incoming>) -> Response<Body> {
    let encoding = request.headers().contains_key("accept-encoding");
    let Ok(body) = request.into_body().collect().await else { return text(400, "") };
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    let number = state.next.fetch_add(1, Ordering::SeqCst);
    let id = body["prompt_id"].as_str().map_or_else(|| format!("{}-job-{number}", state.name), String::from);
    let job = json!({ "client_id": body["client_id"], "encoding": encoding, "status": "success" });
    state.jobs.lock().unwrap().insert(id.clone(), job);
    json_of(&json!({ "prompt_id": id, "number": number, "node_errors": {} }))
}

/// ComfyUI 0.33's way with sockets, its bug included: whichever socket of a client closes, the client is taken
/// off the list.
fn socket(state: Arc<State>, mut request: Request<Incoming>) -> Response<Body> {
    let client = query(&request, "clientId").unwrap_or("anonymous").to_string();
    let refuse = query(&request, "refuse").is_some();
    if refuse || !request.headers().contains_key("upgrade") {
        return text(400, "no handshake");
    }
    let number = state.next.fetch_add(1, Ordering::SeqCst);
    let upgraded = hyper::upgrade::on(&mut request);
    state.sockets.lock().unwrap().insert(client.clone(), number);
    state.socket_events.lock().unwrap().push(format!("open {client}"));
    let shared = state.clone();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        let hello = json!({ "type": "status", "data": { "sid": client, "of": shared.name } });
        let _ = stream.write_all(&frame(1, hello.to_string().as_bytes(), None)).await;
        while let Some((opcode, payload)) = stream.read_frame().await {
            match opcode {
                8 => {
                    let _ = stream.write_all(&frame(8, &payload, None)).await;
                    break;
                }
                // "on the list?" is answered as a message to the client would be: only if it is.
                1 if payload == b"poke" => {
                    let on_list = shared.sockets.lock().unwrap().get(&client) == Some(&number);
                    if on_list {
                        let _ = stream.write_all(&frame(1, b"poked", None)).await;
                    }
                }
                _ => {
                    if stream.write_all(&frame(opcode, &payload, None)).await.is_err() {
                        break;
                    }
                }
            }
        }
        shared.sockets.lock().unwrap().remove(&client);
        shared.socket_events.lock().unwrap().push(format!("close {client}"));
    });
    let mut response = text(101, "");
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// What is not ComfyUI's.
async fn test(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let number = |name: &str| query(&request, name).and_then(|v| v.parse::<u64>().ok());
    let pause = Duration::from_millis(number("ms").unwrap_or(0));
    match request.uri().path() {
        "/test/headers" => {
            let mut answer = json!({ "of": state.name, "headers": shown(request.headers()) });
            answer["version"] = json!(format!("{:?}", request.version()));
            json_of(&answer)
        }
        "/test/slow" => {
            tokio::time::sleep(pause).await;
            text(200, state.name.clone())
        }
        "/test/stream" => {
            let parts = (0..3).map(|n| Frame::data(Bytes::from(format!("part {n}\n")))).collect();
            Response::new(slowly(parts, pause))
        }
        "/test/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let parts = vec![Frame::data(Bytes::from("body")), Frame::trailers(trailers)];
            let mut response = Response::new(slowly(parts, Duration::ZERO));
            response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            response
        }
        "/test/big" => {
            let size = number("bytes").unwrap_or(0);
            let mut response = Response::new(Zeros::new(size).boxed());
            if query(&request, "chunked").is_none() {
                response.headers_mut().insert("content-length", size.into());
            }
            response
        }
        "/test/sink" => {
            let mut body = request.into_body();
            let mut bytes = 0u64;
            let mut trailers = None;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return text(400, "broken") };
                match frame.into_data() {
                    Ok(data) => {
                        bytes += data.len() as u64;
                        state.received.fetch_add(data.len() as u64, Ordering::SeqCst);
                        if !pause.is_zero() {
                            tokio::time::sleep(pause).await;
                        }
                    }
                    Err(frame) => trailers = frame.into_trailers().ok().map(|t| shown(&t)),
                }
            }
            json_of(&json!({ "bytes": bytes, "trailers": trailers }))
        }
        "/test/echo" => Response::new(request.into_body().map_err(std::io::Error::other).boxed()),
        "/test/early" => text(403, "not this one"),
        path => match path.strip_prefix("/test/status/") {
            Some(status) => {
                let status = status.parse().unwrap();
                let mut response = text(status, if matches!(status, 204 | 304) { "" } else { "text" });
                response.headers_mut().insert("etag", "\"x\"".parse().unwrap());
                response
            }
            None => text(200, format!("{} {path}", state.name)),
        },
    }
}

/// An instance of raw bytes on a loopback port, as earlier agents deployed them: answers health checks, and does `act`
/// with every other connection, once its request's head was read.
pub async fn raw<F, Fut>(slot: u32, act: F) -> StandIn
where
    F: Fn(TcpStream, String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = target(slot, 1, listener.local_addr().unwrap());
    let state = Arc::new(State { name: target.id.clone(), ..State::default() });
    let shared = state.clone();
    let act = Arc::new(act);
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (act, state) = (act.clone(), shared.clone());
            connections.spawn(async move {
                let head = crate::client::read_head(&mut stream).await;
                if head.starts_with("GET /system_stats ") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                    return;
                }
                state.seen.lock().unwrap().push(head.lines().next().unwrap_or_default().to_string());
                act(stream, head).await;
            });
        }
    });
    StandIn { _dir: None, target, state, accepting }
}
