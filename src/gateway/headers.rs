//! Headers on their way through: those that concern a single connection are removed (RFC 9110, 7.6.1), and
//! those that tell the instance about the client are added.
use crate::gateway::client::Client;
use crate::gateway::forwarded::{self, FORWARDED_FOR};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const INSTANCE: HeaderName = HeaderName::from_static("x-stillframe-instance");
const SLOT: &str = "stillframe-slot=";

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Whether the message asks for another protocol, or agrees to one.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && connection_tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"))
}

/// Removes what concerns a single connection. `upgrade` says whether a change of protocol is passed on.
pub fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let usual = |t: &str| {
        ["close", "keep-alive", "upgrade", "te"].iter().any(|usual| t.eq_ignore_ascii_case(usual))
            // These are not the sender's to take out: they say where the message goes and ends.
            || t.eq_ignore_ascii_case("host")
            || t.eq_ignore_ascii_case("content-length")
    };
    let named: Vec<HeaderName> =
        connection_tokens(headers).filter(|t| !usual(t)).filter_map(|t| t.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    if headers.remove(TRANSFER_ENCODING).is_some() {
        // With both, the length is a lie (RFC 9112, 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// A request's headers as the instance gets them. `trusted`: the peer is a proxy that is believed what it says
/// of its client.
pub fn forward(headers: &mut HeaderMap, client: &Client, trusted: bool, upgrade: bool) {
    if !trusted {
        forwarded::drop_claims(headers);
    }
    // Trailers pass through, other transfer codings do not (RFC 9110, 10.1.4).
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip(headers, upgrade);
    headers.remove(TE);
    if trailers && !upgrade {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // hyper answers it when the body is first asked for; the instance gets the body at once.
    headers.remove(EXPECT);
    match headers.entry(FORWARDED_FOR) {
        Entry::Vacant(none) => drop(none.insert(client.text.clone())),
        Entry::Occupied(mut before) => {
            let mut all: Vec<u8> = before.iter().flat_map(|v| [v.as_bytes(), b", "].concat()).collect();
            all.extend_from_slice(client.text.as_bytes());
            if let Ok(all) = HeaderValue::from_bytes(&all) {
                before.insert(all);
            }
        }
    }
    // A proxy with TLS before us knows better than we do.
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// The slot that a browser was given.
pub fn slot(headers: &HeaderMap) -> Option<u32> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(SLOT)?.parse().ok())
}

pub fn slot_cookie(slot: u32) -> HeaderValue {
    let text = format!("{SLOT}{slot}; HttpOnly; SameSite=Lax; Path=/");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        all
    }

    fn client() -> Client {
        Client::new("10.0.0.7".parse().unwrap(), None)
    }

    #[test]
    fn what_is_of_one_connection_stays_behind() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret, Host"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-secret", "a"),
            ("x-other", "b"),
            ("host", "h:1"),
            ("trailer", "x-sum"),
        ]);
        forward(&mut headers, &client(), false, false);
        assert_eq!(
            shown(&headers),
            [
                "host: h:1",
                "trailer: x-sum",
                "x-forwarded-for: 10.0.0.7",
                "x-forwarded-host: h:1",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn an_upgrade_and_trailers_pass() {
        let mut headers = map(&[("connection", "Keep-Alive, Upgrade"), ("upgrade", "websocket")]);
        assert!(wants_upgrade(&headers));
        strip(&mut headers, true);
        assert_eq!(shown(&headers), ["connection: upgrade", "upgrade: websocket"]);
        assert!(!wants_upgrade(&map(&[("upgrade", "websocket")])));
        let mut headers = map(&[("te", "Trailers"), ("connection", "te")]);
        forward(&mut headers, &client(), false, false);
        assert_eq!(shown(&headers)[..2], ["connection: te", "te: trailers"]);
    }

    #[test]
    fn what_a_trusted_proxy_said_is_kept_and_nobody_elses() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "example.org"),
            ("host", "inner"),
        ]);
        let mut strangers = headers.clone();
        forward(&mut headers, &client(), true, false);
        assert_eq!(
            shown(&headers),
            [
                "host: inner",
                "x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.7",
                "x-forwarded-host: example.org",
                "x-forwarded-proto: https",
            ]
        );
        forward(&mut strangers, &client(), false, false);
        assert_eq!(
            shown(&strangers),
            [
                "host: inner",
                "x-forwarded-for: 10.0.0.7",
                "x-forwarded-host: inner",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn slots_in_cookies() {
        assert_eq!(slot(&map(&[("cookie", "a=b; stillframe-slot=3")])), Some(3));
        assert_eq!(slot(&map(&[("cookie", "a=b"), ("cookie", "stillframe-slot=0")])), Some(0));
        assert_eq!(slot(&map(&[("cookie", "stillframe-slot=x; xstillframe-slot=1")])), None);
        assert_eq!(slot_cookie(1), "stillframe-slot=1; HttpOnly; SameSite=Lax; Path=/");
    }
}
