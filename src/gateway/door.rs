//! Whether a request may come in: by the page that sent it and the name that it calls us (`origin`), and by its
//! key (`auth`).
use crate::gateway::forwarded;
use crate::gateway::headers;
use crate::gateway::origin::Asked;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::settings::Active;
use hyper::HeaderMap;
use hyper::http::request::Parts;
use std::net::IpAddr;

/// Who sent a request.
pub struct Caller {
    /// Its own address, which is not the connection's where that comes from a trusted proxy.
    pub ip: IpAddr,
    /// What the connection says of its client is believed.
    pub trusted: bool,
}

impl Caller {
    pub fn of(headers: &HeaderMap, peer: IpAddr, active: &Active) -> Caller {
        let trusted = &active.settings.callers.trusted_proxies;
        Caller {
            ip: forwarded::client(headers, peer, trusted),
            trusted: forwarded::is_trusted(trusted, peer),
        }
    }
}

/// Lets a request in, without what it was let in by.
pub fn admit(active: &Active, head: &mut Parts) -> Result<(), Refusal> {
    let asked = Asked {
        method: &head.method,
        headers: &head.headers,
        upgrade: headers::wants_upgrade(&head.headers),
        keyless: active.keys.is_empty(),
    };
    // First of all: a page of another site must not have keys tried in its visitor's name.
    active.names.check(&asked)?;
    if !active.keys.admit(&mut head.headers) {
        return Err(Refusal::new(Fault::NotAllowed, "this service asks for an API key"));
    }
    Ok(())
}
