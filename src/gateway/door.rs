//! Whether a request may come in: by the page that sent it and the name that it calls us (`origin`), by its
//! key (`auth`, `subprotocol`, `ticket`, `throttle`), and by how much its client and its key have already (`share`).
use crate::gateway::access::Taken;
use crate::gateway::auth::Brought;
use crate::gateway::clock;
use crate::gateway::forwarded;
use crate::gateway::headers;
use crate::gateway::origin::{Asked, OF_PAGE, Page};
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::settings::Active;
use crate::gateway::share::{Source, Who};
use crate::gateway::shared::Gateway;
use crate::gateway::subprotocol;
use crate::gateway::ticket;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use std::net::IpAddr;

/// Who sent a request.
pub struct Caller {
    /// Its own address, which is not the connection's where that comes from a trusted proxy.
    pub ip: IpAddr,
    /// What the connection says of its client is believed.
    pub trusted: bool,
    pub who: Who,
    /// The subprotocol of a WebSocket to answer, if the instance chooses none.
    pub subprotocol: Option<HeaderValue>,
    /// Its refusal is counted in the log, and has no line of its own.
    pub silent: bool,
}

impl Caller {
    pub fn of(headers: &HeaderMap, peer: IpAddr, active: &Active) -> Caller {
        let trusted = &active.settings.callers.trusted_proxies;
        let ip = forwarded::client(headers, peer, trusted);
        Caller {
            ip,
            trusted: forwarded::is_trusted(trusted, peer),
            who: Who { source: Source::of(ip), key: None, keys: active.keys.count() },
            subprotocol: None,
            silent: false,
        }
    }

    /// Lets a request in, without what it was let in by.
    pub fn admit(&mut self, gateway: &Gateway, active: &Active, head: &mut Parts) -> Result<(), Refusal> {
        let upgrade = headers::wants_upgrade(&head.headers);
        let keyless = active.keys.is_empty();
        let asked = Asked { method: &head.method, headers: &head.headers, upgrade, keyless };
        // First of all: a page of another site must not have keys tried in its visitor's name.
        if active.names.check(&asked)? == Page::Named {
            OF_PAGE.iter().for_each(|name| drop(head.headers.remove(name)));
        }
        let mut brought = active.keys.admit(&mut head.headers);
        if upgrade && let Some(offer) = subprotocol::take(&mut head.headers) {
            self.subprotocol = Some(offer.answer);
            brought = brought.or(active.keys.look(&offer.key));
        }
        if matches!(head.method, Method::GET | Method::HEAD) {
            brought = brought.or(by_ticket(gateway, active, head));
        }
        if keyless { Ok(()) } else { self.judge(gateway, active, brought) }
    }

    fn judge(&mut self, gateway: &Gateway, active: &Active, brought: Brought) -> Result<(), Refusal> {
        let (throttle, source, now) = (&gateway.throttle, self.who.source, clock::now());
        let most = active.settings.limits.wrong_of_client();
        let later = match brought {
            Brought::Right(key) => match throttle.right(source, key, most, now) {
                Ok(()) => {
                    self.who.key = Some(key);
                    return Ok(());
                }
                Err(later) => {
                    self.silent = true;
                    Some(later)
                }
            },
            Brought::Wrong(key) => {
                let verdict = throttle.wrong(source, key, most, now);
                self.silent = verdict.silent;
                verdict.later
            }
            Brought::Nothing => {
                self.silent = throttle.missing(source, most, now).silent;
                None
            }
        };
        let Some(later) = later else {
            return Err(Refusal::new(Fault::NotAllowed, "this service asks for an API key"));
        };
        let message = format!(
            "{source} brought more than {most} wrong API keys within a minute: for {later} s its keys are not \
             looked at"
        );
        Err(Refusal { later: Some(later), ..Refusal::new(Fault::TooManyWrongKeys, message) })
    }

    /// The request's shares, until it is over.
    pub fn take(&self, gateway: &Gateway, active: &Active) -> Result<Taken, Refusal> {
        let limits = &active.settings.limits;
        let refused = |most, whose: &dyn std::fmt::Display, name| {
            let message = format!("{most} requests of {whose} are open already ([service.gateway] {name})");
            Refusal::new(Fault::TooManyRequests, message)
        };
        let mut taken = Taken::default();
        if self.trusted {
            // The connection is the proxy's; one without a proxy in front has its share of connections.
            let (source, most) = (self.who.source, limits.of_client());
            let share = gateway.of_clients.take(source, most, usize::MAX);
            taken.client = Some(share.map_err(|_| refused(most, &source, "connections-per-client"))?);
        }
        if let Some(key) = self.who.key {
            let most = limits.of_key(self.who.keys);
            let share = gateway.of_keys.take(key, most, usize::MAX);
            taken.key = Some(share.map_err(|_| refused(most, &"this API key", "requests-per-key"))?);
        }
        Ok(taken)
    }
}

/// What a ticket in the address stands for. A good one is used up and removed, whatever else let the request in.
/// A bad one is no wrong key: any page can make its visitor's browser ask for an address, and a ticket is too
/// long to be guessed.
fn by_ticket(gateway: &Gateway, active: &Active, head: &mut Parts) -> Brought {
    let Some(text) = ticket::of(&head.uri) else { return Brought::Nothing };
    let Some(stands_for) = gateway.tickets.redeem(text, clock::now()) else { return Brought::Nothing };
    if let Some(uri) = ticket::without(&head.uri) {
        head.uri = uri;
    }
    // The key may have been taken back since.
    stands_for.filter(|key| active.keys.has(*key)).map_or(Brought::Nothing, Brought::Right)
}
