//! `stillframe-agent scaler`: the root program that a gateway asks for one instance more or fewer. The gateway decides and
//! has no privileges; this has them, and knows two sentences: "slot N up" and "slot N down" of the generation that serves.
//!
//! systemd starts it when somebody connects to its socket, and it ends when nobody has for a while. It hears the user of the
//! gateway's own unit alone (SO_PEERCRED), one line on each connection, and does nothing while a deployment changes the
//! service, because it holds the lock under which a lease is taken.
use crate::host::activation;
use crate::host::effects::HostWorld;
use crate::host::layout::{Layout, Service};
use crate::host::lease;
use crate::host::scaling_order;
use crate::host::slot_change::{Refusal, carry_out};
use crate::host::slots;
use crate::host::state::ServiceState;
use crate::protocol::scaling::{Refused, SLOT_VERSION, SlotReply, SlotRequest};
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::say::say;
use crate::sys::systemd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Nobody has connected for so long.
const IDLE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// A question comes in one piece.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than any question.
const LONGEST: u64 = 4096;
/// What systemd has for an id that is not known (UID_INVALID).
const NO_ID: u32 = u32::MAX;

pub fn run(layout: &Layout, name: &str) -> Result<()> {
    let service = layout.service(name);
    let listener = passed()?;
    if let Err(e) = settle(&service) {
        say(format_args!("{name}: what an earlier process left: {}", e.full()));
    }
    loop {
        let mut waits = [PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut waits, Some(&IDLE)) {
            // Who connects now is kept by the socket, which starts this program again.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Error::io("wait for", service.scaler_socket(), e.into())),
        }
        let (stream, _) =
            listener.accept().map_err(|e| Error::io("accept at", service.scaler_socket(), e))?;
        serve(&service, stream);
    }
}

/// The socket that systemd passes.
fn passed() -> Result<UnixListener> {
    let none = || {
        Error::new(Kind::Input, "no socket is passed to this program")
            .hint("systemd starts it: see its .socket unit")
    };
    let fds =
        sd_listen_fds::get().map_err(|e| Error::new(Kind::Input, "cannot read LISTEN_FDS").caused_by(e))?;
    let (_, fd) = fds.into_iter().next().ok_or_else(none)?;
    let fd: OwnedFd = fd.into_std();
    // What is started here is not to have it.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
        .map_err(|e| Error::new(Kind::Input, "the passed socket is not there").caused_by(e))?;
    Ok(UnixListener::from(fd))
}

fn serve(service: &Service, mut stream: UnixStream) {
    let reply = match hear(service, &stream) {
        Ok(()) => SlotReply { refused: None, why: String::new() },
        Err(Refusal { refused, why }) => {
            say(format_args!("{}: refused: {why}", service.name));
            SlotReply { refused: Some(refused), why }
        }
    };
    let Ok(mut line) = serde_json::to_vec(&reply) else { return };
    line.push(b'\n');
    // Whoever left meanwhile asks again.
    let _ = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(&line));
}

fn hear(service: &Service, stream: &UnixStream) -> std::result::Result<(), Refusal> {
    // A process of another PID namespace has no id here, and is not the gateway.
    let caller = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|_| Refusal::new(Refused::Caller, "the caller is no process of this host's own"))?;
    let (caller, own) = (caller.uid.as_raw(), gateway_user(service)?);
    // Nothing of what another user says is read.
    if Some(caller) != own {
        let text = format!("user {caller} is not the user of {}", service.gateway_unit("service"));
        return Err(Refusal::new(Refused::Caller, text));
    }
    let asked = read(stream)?;
    let done = lease::unless_changing(service, || {
        let order = scaling_order::order(service)?;
        let mut state = ServiceState::load(&service.state(), &service.name)?;
        let mut world = HostWorld::new(service, None, None)?;
        Ok(carry_out(&mut world, &mut state, order.as_ref(), &asked))
    })?;
    done.map_err(|holder| {
        Refusal::new(Refused::Busy, format!("a {} begun by {} is under way", holder.kind.name(), holder.by))
    })?
}

/// A dynamic user has an id while its unit runs, and systemd alone tells it.
fn gateway_user(service: &Service) -> std::result::Result<Option<u32>, Refusal> {
    let shown = systemd::show(&service.gateway_unit("service"), &["UID"])?;
    Ok(shown.get("UID").and_then(|text| text.parse().ok()).filter(|id| *id != NO_ID))
}

fn read(stream: &UnixStream) -> std::result::Result<SlotRequest, Refusal> {
    let malformed = |why: String| Refusal::new(Refused::Malformed, format!("this is no request: {why}"));
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| malformed(e.to_string()))?;
    let mut line = Vec::new();
    let mut byte = [0];
    let mut limited = stream.take(LONGEST);
    // To the end of the line alone: the caller waits for its answer, and closes after it.
    loop {
        match limited.read(&mut byte) {
            Ok(0) => return Err(malformed("it has no end".into())),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(e) => return Err(malformed(e.to_string())),
        }
    }
    parse(&line)
}

fn parse(line: &[u8]) -> std::result::Result<SlotRequest, Refusal> {
    let malformed = |why: String| Refusal::new(Refused::Malformed, format!("this is no request: {why}"));
    let asked: SlotRequest = serde_json::from_slice(line).map_err(|e| malformed(e.to_string()))?;
    version::check(asked.version, SLOT_VERSION).map_err(|other| malformed(other.to_string()))?;
    Ok(asked)
}

/// A process that was killed between the state and its effect left something that should not run.
fn settle(service: &Service) -> Result<()> {
    let settled = lease::unless_changing(service, || {
        let mut state = ServiceState::load(&service.state(), &service.name)?;
        let Some(number) = state.serving.filter(|_| state.pending.is_none()) else { return Ok(()) };
        if slots::others(service, &state.instances(number))?.is_empty() {
            return Ok(());
        }
        let mut world = HostWorld::new(service, None, None)?;
        activation::tidy(&mut world, &mut state).into_iter().next().map_or(Ok(()), Err)
    })?;
    // Where somebody changes it, they end what does not belong there.
    settled.or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_of_one_version() {
        let said = |text: &str| {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(text.as_bytes()).unwrap();
            here.shutdown(std::net::Shutdown::Write).unwrap();
            read(&there).map_err(|refusal| (refusal.refused, refusal.why))
        };
        let good = "{\"version\":1,\"generation\":7,\"slot\":2,\"to\":\"down\"}";
        assert_eq!(said(&format!("{good}\n")).unwrap().slot, 2);
        let why = |text: &str| {
            let (refused, why) = said(text).unwrap_err();
            assert_eq!(refused, Refused::Malformed);
            why
        };
        assert_eq!(why(good), "this is no request: it has no end");
        assert_eq!(why(&" ".repeat(10_000)), "this is no request: it has no end");
        assert!(why("slot 2 up\n").starts_with("this is no request: "));
        assert!(why("{\"version\":2,\"generation\":7,\"slot\":2,\"to\":\"up\"}\n").contains("version 2"));
        assert!(
            why("{\"version\":1,\"generation\":7,\"slot\":2,\"to\":\"up\",\"x\":1}\n")
                .contains("unknown field")
        );
    }
}
