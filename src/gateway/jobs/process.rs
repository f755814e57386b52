//! The end of an instance's process, where it cannot go on: it has a thread for that (`host/scripts/sitecustomize.py`), which hears the
//! gateway on a socket of its own, also while the event loop does not answer. systemd starts the instance again.
use crate::gateway::access_log::Level;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::place::Seat;
use crate::gateway::shared::Gateway;
use crate::sys::address::Address;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Beside the socket that it serves.
const SOCKET: &str = "end.sock";
/// The process ends at once, unless it does nothing at all any more.
const LIMIT: Duration = Duration::from_secs(5);

/// It gets no job until its process is another one.
pub fn end(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, why: &str) {
    seat.set_stuck(true);
    let id = seat.instance.id();
    engine.note(&gateway.log, Level::Error, &format!("{id} {why}: its process is ended, and starts again"));
    let (gateway, engine, instance) = (gateway.clone(), engine.clone(), seat.instance.clone());
    let why = why.to_string();
    tokio::spawn(async move {
        if let Err(e) = tell(&instance, &why).await {
            let id = instance.id();
            let text = format!("{id} cannot be told to end ({e}): restart its unit, and its job waits again");
            engine.note(&gateway.log, Level::Error, &text);
        }
    });
}

async fn tell(instance: &Instance, why: &str) -> io::Result<()> {
    let Address::Unix(socket) = &instance.target.address else {
        return Err(io::Error::other("it listens on a port"));
    };
    let told = async {
        let mut stream = UnixStream::connect(socket.with_file_name(SOCKET)).await?;
        stream.write_all(format!("{why}\n").as_bytes()).await?;
        // Nothing comes: the other end closes with its process.
        match stream.read(&mut [0]).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(io::Error::other("it answered")),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(e) => Err(e),
        }
    };
    tokio::time::timeout(LIMIT, told).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
