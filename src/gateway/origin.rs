//! Which requests a page of another site may have a browser send. A browser adds Basic credentials by itself to
//! whatever a page asks for, and where no key is asked for it needs none. So a request that may change
//! something, and a WebSocket, must come from a page of the service (`Origin` is at `Host`, or is named), and
//! without a key a name must be one of the service's (`Host`): a stranger's name may lead to this address too
//! (DNS rebinding). Most programs send no `Origin`, and pass.
use crate::gateway::refusal::{Fault, Refusal};
use crate::protocol::callers::{Authority, Callers, Origin};
use hyper::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Method};
use std::net::IpAddr;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What an instance could judge a page by.
pub const OF_PAGE: [HeaderName; 2] = [ORIGIN, SITE];
/// How much of a stranger's text a message repeats.
const SHOWN: usize = 200;

/// The names and pages that are the service's own.
pub struct Names {
    names: Vec<String>,
    origins: Vec<Origin>,
    machine: String,
}

/// What of a request the rules look at.
pub struct Asked<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub upgrade: bool,
    /// Whether the request needs no key.
    pub keyless: bool,
}

/// Whose page sent a request that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The service's own, or none.
    Own,
    /// One of `origins`, by another name than the one that it calls us. ComfyUI knows no such names: it refuses
    /// an Origin that differs from a Host of loopback.
    Named,
}

impl Names {
    /// `machine`: the name of this machine.
    pub fn new(callers: &Callers, machine: &str) -> Names {
        let machine = machine.trim_end_matches('.').to_ascii_lowercase();
        let short = machine.split('.').next().unwrap_or_default();
        let mut names = vec!["localhost".to_string()];
        if !short.is_empty() {
            // No stranger can make either of the last two: a name without a dot is not in public DNS, and
            // `.local` is mDNS (RFC 6762).
            names.extend([machine.clone(), short.to_string(), format!("{short}.local")]);
        }
        names.extend(callers.hosts.iter().map(|name| name.as_str().to_string()));
        names.extend(callers.origins.iter().map(|origin| origin.host().to_string()));
        Names { names, origins: callers.origins.clone(), machine: short.to_string() }
    }

    /// An address is not asked of DNS, so nobody can lead it elsewhere.
    fn is_own(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok()
            // RFC 6761, 6.3: these are loopback in every browser.
            || host.ends_with(".localhost")
            || self.names.iter().any(|name| name == host)
    }

    pub fn check(&self, asked: &Asked) -> Result<Page, Refusal> {
        let host = one(asked.headers, &HOST).and_then(Authority::parse);
        if asked.keyless
            && asked.headers.contains_key(HOST)
            && !host.as_ref().is_some_and(|h| self.is_own(&h.host))
        {
            return Err(self.unknown_host(asked.headers));
        }
        let origin = one(asked.headers, &ORIGIN).and_then(Origin::parse);
        if let Some(origin) = origin.as_ref().filter(|origin| self.origins.contains(origin)) {
            let at_host = host.is_some_and(|host| origin.is_at(&host));
            return Ok(if at_host { Page::Own } else { Page::Named });
        }
        let safe = matches!(*asked.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if safe && !asked.upgrade {
            return Ok(Page::Own);
        }
        if asked.headers.contains_key(ORIGIN) {
            let Some(origin) = origin else {
                return Err(no_origin(asked.headers));
            };
            // Whether the name is ours is no question here: a browser has no key for a stranger's name, and
            // without a key that name did not come so far.
            if !host.is_some_and(|host| origin.is_at(&host)) {
                return Err(foreign(&origin.to_string()));
            }
        }
        let cross = asked.headers.get_all(SITE).iter().any(|v| is(v, b"cross-site"));
        if cross { Err(foreign("another site")) } else { Ok(Page::Own) }
    }

    fn unknown_host(&self, headers: &HeaderMap) -> Refusal {
        let host = shown(headers, &HOST);
        let name = Authority::parse(&host).map_or_else(|| "NAME".into(), |authority| authority.host);
        let message = format!(
            "{host:?} is no name of this service. It asks for no API key, so it answers only to addresses, \
             localhost, {} and the names under [service.gateway] hosts and origins. If the name is yours, set \
             hosts = [\"{name}\"]",
            self.machine
        );
        Refusal::new(Fault::UnknownHost, message)
    }
}

fn foreign(from: &str) -> Refusal {
    let set = if from.contains("://") { from } else { "https://pictures.example" };
    let message = format!(
        "this was sent by a page of {from}, which is not one of this service: such pages may change nothing \
         here, and open no WebSocket. If the page is yours, set [service.gateway] origins = [\"{set}\"]"
    );
    Refusal::new(Fault::CrossSite, message)
}

/// `null`: a page in a sandbox, a file, a redirect from elsewhere; or what no browser sends.
fn no_origin(headers: &HeaderMap) -> Refusal {
    let message = format!(
        "this was sent by a page whose origin is {:?}, which nobody can allow: open the service by its own \
         address",
        shown(headers, &ORIGIN)
    );
    Refusal::new(Fault::CrossSite, message)
}

/// The value of a header that may be there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(first.trim())
}

fn is(value: &HeaderValue, word: &[u8]) -> bool {
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(word)
}

fn shown(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
    values.join(", ").chars().take(SHOWN).collect()
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
