//! Opening a tunnel, once an instance has agreed to change the protocol.
use crate::gateway::access::Access;
use crate::gateway::client::Client;
use crate::gateway::client_socket::ClientSocket;
use crate::gateway::keepalive::keep_alive;
use crate::gateway::key::Key;
use crate::gateway::link::Link;
use crate::gateway::pump::Pump;
use crate::gateway::router::Claim;
use crate::gateway::tunnel::Tunnel;
use crate::sys::stream::Stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// What a tunnel is made from.
pub struct Opening {
    pub tunnel: Arc<Tunnel>,
    pub link: Link,
    pub client: OnUpgrade,
    pub claim: Claim,
    pub access: Access,
    pub client_key: Option<Key>,
    /// Whose connection it was; its place is taken until the tunnel is closed.
    pub seat: Arc<Client>,
}

/// Runs a tunnel in a task of its own, since the task of the client's connection ends with the 101.
pub fn open(opening: Opening) {
    let Opening { tunnel, link, client, claim, mut access, client_key, seat } = opening;
    let gateway = access.gateway.clone();
    let number = gateway.tunnels.enter(&tunnel);
    if let Some(key) = client_key {
        // This comes before the client can know that it is connected.
        gateway.affinity.learn_socket(key, &tunnel);
    }
    tokio::spawn(async move {
        if let Some((upstream, early)) = link.into_stream().await
            && let Ok(upgraded) = client.await
            && let Ok(parts) = upgraded.downcast::<TokioIo<ClientSocket>>()
        {
            let idle = gateway.active().settings.limits.idle_ms;
            keep_alive(&upstream, Duration::from_millis(idle));
            let client = (Stream::Tcp(parts.io.into_inner().stream), &*parts.read_buf);
            let mut pump = Pump::new(&tunnel, client, (upstream, &early), Duration::from_millis(idle));
            drop((parts.read_buf, early));
            poll_fn(|cx| pump.poll(cx)).await;
            access.bytes = pump.down.bytes;
            access.received = pump.up.bytes;
        }
        tunnel.closed();
        drop(claim);
        drop(access);
        drop(seat);
        gateway.tunnels.leave(number);
    });
}
