//! A tiny HTTP/1.1 server on the loopback, with the faults an index can have.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone)]
pub struct Route {
    pub status: u16,
    pub kind: &'static str,
    pub body: Vec<u8>,
    pub ranges: bool,
    /// Accepts the request and never answers.
    pub silent: bool,
    pub etag: Option<&'static str>,
    pub gzip: bool,
    pub authorization: Option<&'static str>,
    /// How many requests get status 503 first.
    pub failures: usize,
}

impl Route {
    pub fn new(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Route {
            status: 200,
            kind,
            body: body.into(),
            ranges: true,
            silent: false,
            etag: None,
            gzip: false,
            authorization: None,
            failures: 0,
        }
    }
}

type Routes = Arc<Mutex<HashMap<String, Route>>>;

pub struct Server {
    pub base: String,
    pub authority: String,
    routes: Routes,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let routes = Routes::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (shared, lines) = (routes.clone(), log.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), lines.clone()));
            }
        });
        Server { base: format!("http://{authority}"), authority, routes, log }
    }

    pub fn put(&self, path: &str, route: Route) {
        self.routes.lock().unwrap().insert(path.to_owned(), route);
    }

    pub fn requests(&self) -> usize {
        self.log.lock().unwrap().len()
    }
}

async fn serve(mut stream: TcpStream, routes: Routes, log: Arc<Mutex<Vec<String>>>) {
    let mut pending = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(n) if n > 0 => pending.extend_from_slice(&buffer[..n]),
                _ => return,
            }
        };
        let head = String::from_utf8(pending.drain(..end).collect()).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        log.lock().unwrap().push(path.clone());
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let route = {
            let mut routes = routes.lock().unwrap();
            let route = routes.get(&path).cloned();
            if let Some(live) = routes.get_mut(&path) {
                live.failures = live.failures.saturating_sub(1);
            }
            route
        };
        let mut route = route.unwrap_or_else(|| Route { status: 404, ..Route::new("text/plain", "no") });
        if route.silent {
            tokio::time::sleep(std::time::Duration::from_secs(30)).await;
            return;
        }
        let mut extra = String::new();
        if route.failures > 0 {
            route = Route { status: 503, ..Route::new("text/plain", "later") };
        }
        if route.authorization.is_some() && header("authorization").as_deref() != route.authorization {
            route = Route { status: 401, ..Route::new("text/plain", "who?") };
        }
        if let Some(etag) = route.etag {
            extra.push_str(&format!("ETag: {etag}\r\n"));
            if header("if-none-match").as_deref() == Some(etag) {
                (route.status, route.body) = (304, Vec::new());
            }
        }
        if route.gzip && header("accept-encoding").is_some_and(|v| v.contains("gzip")) {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            std::io::Write::write_all(&mut out, &route.body).unwrap();
            route.body = out.finish().unwrap();
            extra.push_str("Content-Encoding: gzip\r\n");
        }
        if let (200, true, Some(range)) = (route.status, route.ranges, header("range")) {
            let total = route.body.len();
            let range = range.strip_prefix("bytes=").unwrap();
            let (a, b) = range.split_once('-').unwrap();
            let (from, to) = match a.parse::<usize>() {
                Ok(from) => (from, b.parse().map_or(total, |b: usize| (b + 1).min(total))),
                Err(_) => (total.saturating_sub(b.parse().unwrap()), total),
            };
            if from >= to {
                (route.status, route.body) = (416, Vec::new());
            } else {
                extra.push_str(&format!("Content-Range: bytes {from}-{}/{total}\r\n", to - 1));
                (route.status, route.body) = (206, route.body[from..to].to_vec());
            }
        }
        let head = format!(
            "HTTP/1.1 {} X\r\nContent-Type: {}\r\nContent-Length: {}\r\n{extra}\r\n",
            route.status,
            route.kind,
            route.body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&route.body).await.is_err() {
            return;
        }
    }
}
