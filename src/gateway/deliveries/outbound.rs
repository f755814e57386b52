//! One request to somebody else's server: its name is looked up once, the addresses are judged, and what was judged is what
//! is connected to. A redirect is an answer like any other, and is not followed.
use crate::gateway::deliveries::public::{self, Wish};
use crate::protocol::deliveries::Deliveries;
use crate::protocol::web_address::WebAddress;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

/// Of a name: addresses that are tried.
const ADDRESSES: usize = 4;
const CONNECT: Duration = Duration::from_secs(10);
/// Of an answer's body, for what it says of an error, and how long that may take.
const ANSWER: usize = 16 << 10;
const WORDS: Duration = Duration::from_millis(500);
/// The host's certificates are read again after so long: they are renewed while this runs.
const ROOTS: Duration = Duration::from_secs(3600);

pub struct Answer {
    pub status: u16,
    /// For how long it wants to be left alone, in milliseconds.
    pub retry_after: Option<u64>,
    pub text: String,
}

/// When something was moved last; what does not move for too long has failed.
pub struct Progress {
    began: Instant,
    moved: AtomicU64,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { began: Instant::now(), moved: AtomicU64::new(0) }
    }
}

impl Progress {
    pub fn moved(&self) {
        self.moved.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ends once nothing has moved for `limit`.
    pub async fn stalls(&self, limit: Duration) {
        loop {
            let since = self
                .began
                .elapsed()
                .saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)));
            match limit.checked_sub(since).filter(|left| !left.is_zero()) {
                Some(left) => sleep(left).await,
                None => return,
            }
        }
    }
}

/// Where to, and for whom.
pub struct To<'a> {
    pub rules: &'a Deliveries,
    pub wish: Wish,
    pub address: &'a WebAddress,
}

#[derive(Default)]
pub struct Outbound {
    tls: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Ends a task whose result nobody waits for.
struct Ended(tokio::task::JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Outbound {
    /// `request`: without address and host. Its answer, or why there is none.
    pub async fn send<B>(
        &self,
        to: &To<'_>,
        mut request: Request<B>,
        progress: &Progress,
    ) -> Result<Answer, String>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = Duration::from_millis(to.rules.timeout_ms);
        *request.uri_mut() = to.address.target().parse::<Uri>().map_err(|_| "its address is no path")?;
        let host = HeaderValue::from_str(&to.address.authority()).map_err(|_| "its host is no host")?;
        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(concat!("stillframe/", env!("CARGO_PKG_VERSION"))));
        tokio::select! {
            answer = self.exchange(to, request, progress) => answer,
            () = progress.stalls(limit) => Err(format!("nothing moved for {} ms", to.rules.timeout_ms)),
        }
    }

    async fn exchange<B>(
        &self,
        to: &To<'_>,
        request: Request<B>,
        progress: &Progress,
    ) -> Result<Answer, String>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let addresses = look_up(to).await?;
        progress.moved();
        let stream = connect(&addresses).await?;
        progress.moved();
        let stream: Box<dyn Connection> = match to.address.is_https() {
            true => Box::new(self.encrypted(stream, to.address.origin().host()).await?),
            false => Box::new(stream),
        };
        progress.moved();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|e| full(&e))?;
        let _driven = Ended(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(|e| full(&e))?;
        progress.moved();
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        if response.status().is_success() {
            return Ok(Answer { status, retry_after, text: String::new() });
        }
        // What an answer says beyond its status is read for people, and as far as it comes.
        let body = timeout(WORDS, Limited::new(response.into_body(), ANSWER).collect()).await;
        let bytes = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Answer { status, retry_after, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    async fn encrypted(&self, stream: TcpStream, host: &str) -> Result<impl Connection + use<>, String> {
        let name =
            ServerName::try_from(host.to_string()).map_err(|_| format!("{host} is no name of a server"))?;
        let connector = TlsConnector::from(self.tls()?);
        connector.connect(name, stream).await.map_err(|e| format!("TLS: {}", full(&e)))
    }

    /// With the host's own certificates (rustls-native-certs: its bundle, or what `SSL_CERT_FILE` says).
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let mut kept = self.tls.lock();
        if let Some((since, config)) = kept.as_ref().filter(|(since, _)| since.elapsed() < ROOTS) {
            let _ = since;
            return Ok(config.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(|e| format!(": {e}")).unwrap_or_default();
            return Err(format!("this host has no bundle of certificates (Debian: ca-certificates){why}"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| format!("TLS: {e}"))?;
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        *kept = Some((Instant::now(), config.clone()));
        Ok(config)
    }
}

async fn look_up(to: &To<'_>) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = (to.address.origin().host().to_string(), to.address.port());
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            let asked = host.clone();
            // The deliveries have threads of their own for it, which is all that a name server that hangs can take.
            let look = tokio::task::spawn_blocking(move || (asked.as_str(), port).to_socket_addrs());
            let found = look.await.map_err(|_| "the look-up was cut off")?;
            found.map_err(|e| format!("{host} has no address: {e}"))?.collect()
        }
    };
    let may = |address: &SocketAddr| public::may_reach(to.rules, to.wish, to.address, address.ip());
    let reached: Vec<SocketAddr> = found.into_iter().filter(may).take(ADDRESSES).collect();
    if reached.is_empty() {
        return Err(format!("{host} has no public address, and jobs may reach no other"));
    }
    Ok(reached)
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut why = String::new();
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // It is about latency alone.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(e)) => why = format!("cannot connect to {address}: {e}"),
            Err(_) => why = format!("no connection to {address} within {} s", CONNECT.as_secs()),
        }
    }
    Err(why)
}

/// RFC 9110, 10.2.3, in seconds; a date is as good as none.
fn retry_after(headers: &hyper::HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.saturating_mul(1000))
}

/// An error with its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
