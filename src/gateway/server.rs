//! The public port: accepts connections, serves each, and at the end lets them finish.
use crate::gateway::access_log::Level;
use crate::gateway::answer::AnswerBody;
use crate::gateway::client::{Client, Phase, Place};
use crate::gateway::client_socket::ClientSocket;
use crate::gateway::keepalive::keep_alive;
use crate::gateway::link::BUFFER;
use crate::gateway::proxy;
use crate::gateway::refusal::Fault;
use crate::gateway::seating;
use crate::gateway::shared::Gateway;
use crate::sys::error::{Error, Kind, Result};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The largest head of a request: nginx and haproxy take 32 and 16 KiB.
const HEAD: usize = 32 * 1024;
/// How many connections may wait to be accepted; the kernel's own limit is lower on most hosts.
const BACKLOG: i32 = 4096;

pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    let failed = |e: io::Error| Error::new(Kind::Io, format!("cannot listen on {address}")).caused_by(e);
    let bind = || -> io::Result<std::net::TcpListener> {
        use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto};
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        net::sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &address)?;
        net::listen(&socket, BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(failed)
}

/// Sets the options that accepted connections inherit, so that they cost no system call each.
pub fn prepare(listener: &std::net::TcpListener, idle: Duration) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    rustix::net::sockopt::set_tcp_nodelay(listener, true)?;
    keep_alive(listener, idle);
    Ok(())
}

/// Accepts until the gateway leaves.
pub async fn accept(gateway: &Arc<Gateway>, listener: TcpListener) {
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gateway.leave.notified() => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(gateway, stream, peer),
            // The client left before it was accepted.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                    complained = Some(Instant::now());
                    gateway.log.note(Level::Error, &format!("cannot accept connections: {e}"));
                }
                // Out of descriptors or memory: others need time to give some back.
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(gateway: &Arc<Gateway>, stream: TcpStream, peer: SocketAddr) {
    gateway.metrics.connections.fetch_add(1, Ordering::Relaxed);
    // Closed without a word, the client would be told too late anyway.
    let Some(seat) = seating::seat(gateway, peer.ip()) else {
        return gateway.metrics.error(Fault::TooManyConnections);
    };
    // It counts from here on, so one accepted a moment before the end is not forgotten.
    let client = Arc::new(Client::new(peer.ip(), Some(seat)));
    let place = gateway.connections.enter(&client);
    tokio::spawn(serve(gateway.clone(), stream, client, place));
}

/// One connection until its end, or until it becomes a tunnel.
///
/// After a second without a request it rests: hyper's part of it is thrown away, and made anew when bytes
/// come. So a connection that waits takes 3 KiB instead of 18.
async fn serve(gateway: Arc<Gateway>, stream: TcpStream, client: Arc<Client>, _place: Place) {
    let mut builder = http1::Builder::new();
    // `deadlines` keeps the limits of time, without a timer for each request.
    builder.max_buf_size(BUFFER).max_header_size(HEAD).header_read_timeout(None);
    let mut io = Some(ClientSocket::new(stream, client.clone()));
    while let Some(awake) = io.take() {
        let service = service_fn(|request| proxy::answer(&gateway, &client, request));
        let connection = builder.serve_connection(TokioIo::new(awake), service).with_upgrades();
        io = serve_until_rest(&gateway, &client, Box::new(connection)).await;
        if let Some(resting) = &io {
            let more = poll_fn(|cx| {
                client.register(cx);
                if is_over(&gateway, &client) || gateway.closes_idle() {
                    return Poll::Ready(false);
                }
                resting.poll_more(cx).map(|more| more.is_ok())
            });
            if !more.await {
                return;
            }
            client.enter(Phase::Idle);
        }
    }
}

/// The socket, if the connection is put to rest; nothing if it is over.
async fn serve_until_rest<S>(
    gateway: &Gateway,
    client: &Client,
    mut connection: Box<UpgradeableConnection<TokioIo<ClientSocket>, S>>,
) -> Option<ClientSocket>
where
    S: HttpService<Incoming, ResBody = AnswerBody, Error = Infallible>,
{
    let mut asked_to_end = false;
    let over = poll_fn(|cx| {
        client.register(cx);
        if is_over(gateway, client) {
            return Poll::Ready(true);
        }
        if client.rests() && !asked_to_end {
            return Poll::Ready(false);
        }
        if gateway.closes_idle() && !asked_to_end {
            asked_to_end = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        // An error is the client's: it left, or sent what is not HTTP and was told so.
        Pin::new(&mut *connection).poll(cx).map(|_| true)
    });
    if over.await {
        return None;
    }
    let parts = connection.into_parts()?;
    let mut io = parts.io.into_inner();
    io.put_back(&parts.read_buf);
    Some(io)
}

/// Its time is up, or the gateway's.
fn is_over(gateway: &Gateway, client: &Client) -> bool {
    let waits = matches!(client.phase(), Phase::Idle | Phase::Head | Phase::Stream | Phase::Linger);
    gateway.is_over() || (waits && client.is_expired())
}

/// How the gateway leaves: for how long what is open may go on.
pub struct Leave {
    /// How long a connection without a request may still bring one, which its client may have sent already.
    pub idle: Duration,
    pub most: Duration,
    /// Whether tunnels are waited for as well.
    pub tunnels: bool,
}

/// Lets what is open finish, then ends what is left. No connection is accepted any more.
pub async fn leave(gateway: &Gateway, how: &Leave) {
    let until = Instant::now() + how.most;
    let settled = async {
        loop {
            let connections = gateway.connections.fewer.notified();
            let (tunnels, sockets) = (gateway.tunnels.fewer.notified(), gateway.hub.fewer.notified());
            let (mut connections, mut tunnels, mut sockets) =
                (pin!(connections), pin!(tunnels), pin!(sockets));
            connections.as_mut().enable();
            tunnels.as_mut().enable();
            sockets.as_mut().enable();
            if gateway.connections.count() == 0 && (!how.tunnels || upgraded(gateway) == 0) {
                return;
            }
            tokio::select! {
                () = connections => {}
                () = tunnels => {}
                () = sockets => {}
            }
        }
    };
    let mut settled = pin!(settled);
    gateway.answer_with_close();
    if timeout_at(until.min(Instant::now() + how.idle), &mut settled).await.is_err() {
        gateway.close_idle();
        if timeout_at(until, &mut settled).await.is_err() {
            let (connections, tunnels) = (gateway.connections.count(), upgraded(gateway));
            let text = format!("time is up: {connections} connections and {tunnels} tunnels are cut");
            gateway.log.note(Level::Warning, &text);
        }
    }
    gateway.end_all();
    let gone = async {
        while gateway.connections.count() + upgraded(gateway) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // Each ends when it is next polled; this wait is for their lines in the log.
    let _ = timeout(Duration::from_secs(1), gone).await;
}

/// Connections that speak another protocol than HTTP by now.
fn upgraded(gateway: &Gateway) -> usize {
    gateway.tunnels.count() + gateway.hub.count()
}
