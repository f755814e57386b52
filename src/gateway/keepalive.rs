//! TCP keepalive: how a connection that waits for nothing learns that the other side is gone.
use std::os::fd::AsFd;
use std::time::Duration;

/// A peer that vanished without a word is noticed within about `idle`.
pub fn keep_alive(socket: impl AsFd, idle: Duration) {
    let step = (idle / 6).max(Duration::from_secs(1));
    let set = || -> rustix::io::Result<()> {
        rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&socket, step * 3)?;
        rustix::net::sockopt::set_tcp_keepintvl(&socket, step)?;
        rustix::net::sockopt::set_tcp_keepcnt(&socket, 3)?;
        // Keepalive sends nothing while sent data is unacknowledged; then this limit holds.
        let most = u32::try_from((step * 6).as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&socket, most)
    };
    // Without it a half-dead connection only stays longer.
    let _ = set();
}
