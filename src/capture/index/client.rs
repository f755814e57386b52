//! Asks a package index over HTTP: bounded in bytes, time and parallelism, counted, and cached.
use super::cache::Cache;
use super::settings::IndexSettings;
use super::url::IndexUrl;
use crate::formats::python::simple_index::{self, IndexFile};
use crate::sys::error::{Error, Kind, Result};
use parking_lot::Mutex;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use url::Url;

/// PEP 691: JSON where the index speaks it, else HTML.
const ACCEPT_INDEX: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";

/// A server that sends less in `idle_timeout` drips: it would take hours for a page.
const LEAST: usize = 1000;

#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub connect_timeout: Duration,
    /// The longest silence within a request; `LEAST` bytes must arrive in as long.
    pub idle_timeout: Duration,
    /// The longest a whole request may take.
    pub total_timeout: Duration,
    pub max_index_bytes: u64,
    /// Bounds a wheel's central directory, and its RECORD packed and unpacked.
    pub max_directory_bytes: u64,
    pub parallel: usize,
    pub retries: u32,
}

impl ClientOptions {
    /// Waits no longer than `limit`, where pip was told one.
    pub fn at_most(mut self, limit: Option<Duration>) -> Self {
        if let Some(limit) = limit {
            self.connect_timeout = self.connect_timeout.min(limit);
            self.idle_timeout = self.idle_timeout.min(limit);
        }
        self
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(300),
            max_index_bytes: 64 << 20,
            max_directory_bytes: 64 << 20,
            parallel: 16,
            retries: 1,
        }
    }
}

/// What went over the wire so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Index answers, after decompression.
    pub index_bytes: u64,
    pub range_bytes: u64,
    pub requests: u64,
}

/// Why an index or a file server gave nothing. Displays as a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Unreachable(String),
    Answer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(text) | Failure::Answer(text) => f.write_str(text),
        }
    }
}

pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub url: Url,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub struct IndexClient {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    settings: IndexSettings,
    cache: Option<Cache>,
    options: ClientOptions,
    limit: Semaphore,
    /// Servers that could not be connected to or never gave an answer, so that a hundred distributions
    /// wait once.
    down: Mutex<HashMap<String, String>>,
    /// Servers that gave a whole answer: a later silence is about one file of theirs.
    answered: Mutex<HashSet<String>>,
    index_bytes: AtomicU64,
    range_bytes: AtomicU64,
    requests: AtomicU64,
}

impl IndexClient {
    /// `cache_root` is created when something is first stored; `None` caches nothing.
    pub fn new(settings: IndexSettings, cache_root: Option<&Path>, options: ClientOptions) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("stillframe/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.idle_timeout)
            .timeout(options.total_timeout);
        if let Some(path) = &settings.cert {
            let pem = std::fs::read(path).map_err(|e| {
                Error::io("read", path, e).hint("this is the certificate pip is configured with")
            })?;
            let bad = |e: reqwest::Error| {
                let text = format!("{} holds no PEM certificates", path.display());
                Error::new(Kind::Input, text).caused_by(e)
            };
            for cert in reqwest::Certificate::from_pem_bundle(&pem).map_err(bad)? {
                builder = builder.add_root_certificate(cert);
            }
        }
        let http = builder
            .build()
            .map_err(|e| Error::new(Kind::Index, "cannot set up the HTTP client").caused_by(e))?;
        let limit = Semaphore::new(options.parallel.max(1));
        Ok(IndexClient {
            inner: Arc::new(Inner {
                http,
                settings,
                cache: cache_root.map(Cache::new),
                options,
                limit,
                down: Mutex::default(),
                answered: Mutex::default(),
                index_bytes: AtomicU64::new(0),
                range_bytes: AtomicU64::new(0),
                requests: AtomicU64::new(0),
            }),
        })
    }

    pub fn settings(&self) -> &IndexSettings {
        &self.inner.settings
    }

    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    pub(in crate::capture) fn limit(&self) -> &Semaphore {
        &self.inner.limit
    }

    pub(in crate::capture) fn cache(&self) -> Option<&Cache> {
        self.inner.cache.as_ref()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            index_bytes: self.inner.index_bytes.load(Ordering::Relaxed),
            range_bytes: self.inner.range_bytes.load(Ordering::Relaxed),
            requests: self.inner.requests.load(Ordering::Relaxed),
        }
    }

    /// The wheels an index has of a project (by normalised name), revalidated by ETag; a project the
    /// index does not know has none.
    pub async fn files(&self, index: &IndexUrl, name: &str) -> Result<Vec<IndexFile>, Failure> {
        let url = index.project(name);
        let cached = self.cache().and_then(|cache| cache.files(index, name));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT_INDEX));
        let etag = cached.as_ref().and_then(|c| c.etag.as_deref());
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let limit = self.options().max_index_bytes;
        let answer = self.get(&url, &headers, StatusCode::OK, limit).await?;
        self.inner.index_bytes.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
        match (answer.status, cached) {
            (StatusCode::OK, _) => {}
            (StatusCode::NOT_MODIFIED, Some(cached)) => return Ok(cached.files),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => return Ok(Vec::new()),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                let text = format!("{} refuses access (status {})", host(&url), answer.status.as_u16());
                return Err(Failure::Unreachable(text));
            }
            (status, _) => return Err(bad_status(&url, status)),
        }
        let files = read_page(&answer).map_err(|e| Failure::Answer(e.to_string()))?;
        if let Some(cache) = self.cache() {
            let etag = answer.headers.get(header::ETAG).and_then(|v| v.to_str().ok());
            cache.store_files(index, name, etag, &files);
        }
        Ok(files)
    }

    /// One range of a file; the status is 206 or the caller's to explain.
    pub(super) async fn range(&self, url: &Url, range: &str, limit: u64) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(range) {
            headers.insert(header::RANGE, value);
        }
        // A compressed answer would have ranges of something else.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let answer = self.get(url, &headers, StatusCode::PARTIAL_CONTENT, limit).await?;
        self.inner.range_bytes.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
        Ok(answer)
    }

    /// A GET with retries. The body is read only for the status the caller wants: a server that
    /// ignores a range would otherwise send the whole wheel.
    async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        wanted: StatusCode,
        limit: u64,
    ) -> Result<Answer, Failure> {
        let origin = url.origin().ascii_serialization();
        let down = || self.inner.down.lock();
        let mut attempt = 0;
        loop {
            if let Some(text) = down().get(&origin) {
                return Err(Failure::Unreachable(text.clone()));
            }
            let answered = || self.inner.answered.lock();
            let (failure, hopeless) = match self.get_once(url, headers, wanted, limit).await {
                Ok(answer) => {
                    answered().insert(origin.clone());
                    if !retryable(answer.status) || attempt >= self.options().retries {
                        return Ok(answer);
                    }
                    (bad_status(url, answer.status), false)
                }
                Err(Fault::Final(failure)) => return Err(failure),
                Err(Fault::Slow(text)) => (Failure::Unreachable(text), !answered().contains(&origin)),
                Err(Fault::Transport(e)) => {
                    let hopeless = e.is_connect() || (e.is_timeout() && !answered().contains(&origin));
                    (Failure::Unreachable(self.explain(&e, url)), hopeless)
                }
            };
            if attempt >= self.options().retries {
                if hopeless {
                    down().insert(origin, failure.to_string());
                }
                return Err(failure);
            }
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn get_once(
        &self,
        url: &Url,
        headers: &HeaderMap,
        wanted: StatusCode,
        limit: u64,
    ) -> Result<Answer, Fault> {
        let mut request = self.inner.http.get(url.clone()).headers(headers.clone());
        // Credentials go to the origin they are configured for, nowhere else.
        let origin = url.origin();
        let index = self
            .inner
            .settings
            .indexes
            .iter()
            .find(|index| index.credentials().is_some() && index.url().origin() == origin);
        if let Some((user, password)) = index.and_then(IndexUrl::credentials) {
            request = request.basic_auth(user, password);
        }
        self.inner.requests.fetch_add(1, Ordering::Relaxed);
        let idle = self.options().idle_timeout;
        // Headers that drip are as good as silence.
        let sent = tokio::time::timeout(self.options().connect_timeout + idle, request.send()).await;
        let mut response: Response =
            sent.map_err(|_| Fault::Slow(self.silent(url)))?.map_err(Fault::Transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let answered_url = response.url().clone();
        let mut body = Vec::new();
        let (mut since, mut had) = (Instant::now(), 0);
        if status == wanted {
            while let Some(chunk) = response.chunk().await.map_err(Fault::Transport)? {
                if since.elapsed() >= idle {
                    if body.len() - had < LEAST {
                        let text = format!(
                            "{} sends less than {LEAST} bytes in {} s",
                            host(url),
                            idle.as_secs_f64()
                        );
                        return Err(Fault::Slow(text));
                    }
                    (since, had) = (Instant::now(), body.len());
                }
                if (body.len() + chunk.len()) as u64 > limit {
                    let text = format!("{} answers with more than {limit} bytes", host(url));
                    return Err(Fault::Final(Failure::Answer(text)));
                }
                body.extend_from_slice(&chunk);
            }
        }
        Ok(Answer { status, headers, url: answered_url, body })
    }

    fn silent(&self, url: &Url) -> String {
        format!("{} is silent for {} s", host(url), self.options().idle_timeout.as_secs_f64())
    }

    fn explain(&self, e: &reqwest::Error, url: &Url) -> String {
        let host = host(url);
        let seconds = |d: Duration| d.as_secs_f64();
        if e.is_timeout() && e.is_connect() {
            let limit = seconds(self.options().connect_timeout);
            return format!("no connection to {host} within {limit} s");
        }
        if e.is_timeout() {
            return self.silent(url);
        }
        let mut root: &dyn std::error::Error = e;
        while let Some(source) = root.source() {
            root = source;
        }
        if e.is_connect() {
            return format!("cannot connect to {host}: {root}");
        }
        // reqwest's own text repeats the URL, which may hold a token; the root cause does not.
        match e.source() {
            Some(_) => format!("{host}: {root}"),
            None => format!("{host}: the request failed"),
        }
    }
}

enum Fault {
    Transport(reqwest::Error),
    /// Worth another try, as a broken connection is.
    Slow(String),
    Final(Failure),
}

fn retryable(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

pub(super) fn bad_status(url: &Url, status: StatusCode) -> Failure {
    let text = format!("{} answers with status {}", host(url), status.as_u16());
    Failure::Unreachable(text)
}

pub(super) fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

fn read_page(answer: &Answer) -> Result<Vec<IndexFile>, simple_index::SimpleIndexError> {
    let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let kind = kind.unwrap_or_default().to_ascii_lowercase();
    let first = answer.body.iter().find(|b| !b.is_ascii_whitespace());
    let json = kind.contains("json") || (!kind.contains("html") && first == Some(&b'{'));
    if json {
        simple_index::parse_json(&answer.body, &answer.url)
    } else {
        simple_index::parse_html(&String::from_utf8_lossy(&answer.body), &answer.url)
    }
}
