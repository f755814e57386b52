//! What proxies in front say of their clients. Anybody can write these headers, so they are taken from trusted
//! proxies alone, and from the right: each proxy adds the address that it saw itself behind what it was told.
use crate::protocol::callers::Network;
use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};
use std::net::{IpAddr, SocketAddr};

pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const ALIKE: &str = "x-forwarded-";
/// A longer chain of proxies is not followed: what is further left is hardly true.
const MOST: usize = 32;

pub fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// The client's address: the peer's own, or what the trusted proxies before it say.
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let mut client = peer;
    if !is_trusted(trusted, peer) {
        return client;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev().map(|line| line.to_str().unwrap_or(""));
    for hop in lines.flat_map(|line| line.rsplit(',')).take(MOST) {
        // What is no address was not written by a proxy that is believed.
        let Some(address) = address(hop.trim()) else { break };
        client = address;
        if !is_trusted(trusted, client) {
            break;
        }
    }
    client
}

/// Some write a port behind it.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    Some(plain.parse().ok().or_else(with_port)?.to_canonical())
}

/// Removes what the instance would take for a proxy's word.
pub fn drop_claims(headers: &mut HeaderMap) {
    headers.remove(FORWARDED);
    headers.remove(REAL_IP);
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(ALIKE)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| Network::try_from(text.to_string()).unwrap()).collect()
    }

    fn seen(lines: &[&'static str], peer: &str) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted = networks(&["10.0.0.0/8", "::1"]);
        client(&headers, peer.parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn the_clients_address_is_taken_from_the_right() {
        for (lines, peer, client) in [
            (vec!["1.1.1.1, 2.2.2.2"], "10.0.0.1", "2.2.2.2"),
            (vec!["1.1.1.1", "2.2.2.2,10.9.9.9"], "10.0.0.1", "2.2.2.2"),
            (vec!["2.2.2.2:1234"], "::1", "2.2.2.2"),
            (vec!["[2001:db8::1]:1234"], "::1", "2001:db8::1"),
            (vec!["[2001:db8::1]"], "::1", "2001:db8::1"),
            (vec!["::ffff:2.2.2.2"], "::1", "2.2.2.2"),
            // All of them are proxies: the one that is furthest away.
            (vec!["10.0.0.3, 10.0.0.2"], "10.0.0.1", "10.0.0.3"),
            (vec!["1.1.1.1, unknown"], "10.0.0.1", "10.0.0.1"),
            (vec!["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.1", "10.0.0.2"),
            (vec![], "10.0.0.1", "10.0.0.1"),
            // Nobody believes this one.
            (vec!["1.1.1.1"], "3.3.3.3", "3.3.3.3"),
        ] {
            assert_eq!(seen(&lines, peer), client, "{lines:?} {peer}");
        }
    }

    #[test]
    fn claims_are_removed_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for name in [
            "forwarded",
            "x-real-ip",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-user",
            "x-forward",
            "host",
        ] {
            headers.insert(HeaderName::from_static(name), "a".parse().unwrap());
        }
        drop_claims(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-forward"]);
    }
}
