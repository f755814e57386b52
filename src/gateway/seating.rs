//! Which connections are taken in. A client has a share of them. Where there is none left, a connection that
//! waits for nothing gives its place to the new one: the longest idle of the client that has the most. Where
//! all are busy, a few places are kept for the gateway's own pages, so that whoever watches the service sees
//! that it is full; any other request on one of them is told so.
use crate::gateway::client::{Client, Phase, Seat};
use crate::gateway::clock::{self, Millis};
use crate::gateway::forwarded::is_trusted;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::share::{Full, Source};
use crate::gateway::shared::Gateway;
use std::net::IpAddr;
use std::sync::Arc;

/// How many connections there are above the limit, and how many of them a client may have.
const RESERVE: usize = 64;
const RESERVE_OF_CLIENT: usize = 8;
/// A head comes in one piece; who has not finished it by then may be drawing it out.
const SLOW_HEAD: Millis = 1_000;

/// A place for a new connection; nothing where even the reserve is taken.
pub fn seat(gateway: &Gateway, address: IpAddr) -> Option<Seat> {
    let active = gateway.active();
    let limits = &active.settings.limits;
    let source = Source::of(address);
    // A proxy has the connections of all its clients, whose requests are counted one by one instead.
    let trusted = is_trusted(&active.settings.callers.trusted_proxies, address);
    let own = if trusted { limits.connections } else { limits.of_client() };
    let take = || gateway.seats.take(source, own, limits.connections);
    let full = match take() {
        Ok(share) => return Some(Seat { share, trusted, full: None }),
        Err(full) => full,
    };
    if evict(gateway, full, source, false)
        && let Ok(share) = take()
    {
        return Some(Seat { share, trusted, full: None });
    }
    let take = || gateway.reserve.take(source, RESERVE_OF_CLIENT, RESERVE);
    let share = match take() {
        Ok(share) => share,
        Err(none) => evict(gateway, none, source, true).then(take)?.ok()?,
    };
    Some(Seat { share, trusted, full: Some(full) })
}

/// Ends one connection that waits for nothing: of this client, where it has as much as it may.
fn evict(gateway: &Gateway, full: Full, source: Source, reserve: bool) -> bool {
    let now = clock::now();
    let (mut found, mut best) = (None, None);
    gateway.connections.each(|client| {
        let Some(seat) = &client.seat else { return };
        let theirs = seat.share.whose;
        if seat.is_reserve() != reserve || (full == Full::Own && theirs != source) || !waits(client, now) {
            return;
        }
        // A proxy's come last: they are many clients'.
        let has = match (seat.trusted, reserve) {
            (true, _) => 0,
            (false, false) => gateway.seats.of(theirs),
            (false, true) => gateway.reserve.of(theirs),
        };
        // Of two that are idle since the same tick the first one came first.
        let rank = Some((has, std::cmp::Reverse(client.since())));
        if rank > best {
            (found, best) = (Some(client.clone()), rank);
        }
    });
    let Some(client) = found else { return false };
    if let Some(seat) = &client.seat {
        seat.share.give_back();
    }
    client.expire(client.phase());
    true
}

fn waits(client: &Client, now: Millis) -> bool {
    !client.is_expired()
        && match client.phase() {
            Phase::Idle => true,
            Phase::Head => now > client.since() + SLOW_HEAD,
            _ => false,
        }
}

/// What a request hears that is for an instance, and came by the reserve.
pub fn check(gateway: &Gateway, client: &Arc<Client>) -> Result<(), Refusal> {
    let Some(full) = client.seat.as_ref().and_then(|seat| seat.full) else { return Ok(()) };
    let active = gateway.active();
    let limits = &active.settings.limits;
    let message = match full {
        Full::All => format!("{} connections are open already", limits.connections),
        Full::Own => format!(
            "{} has {} connections open already, which is its share ([service.gateway] \
             connections-per-client); a proxy with many clients belongs under trusted-proxies",
            Source::of(client.ip),
            limits.of_client()
        ),
    };
    Err(Refusal::new(Fault::TooManyConnections, message))
}
