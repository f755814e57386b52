//! Which addresses a job may have something sent to. A service's own are its operator's business; a job's are a stranger's:
//! what it names must be an origin of the settings, and must not lead into the host or its network.
use crate::protocol::deliveries::Deliveries;
use crate::protocol::web_address::WebAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Service,
    Job,
}

/// The address, where a job may name it; else why not.
pub fn allowed(rules: Option<&Deliveries>, text: &str) -> Result<WebAddress, String> {
    let address = WebAddress::parse(text).map_err(String::from)?;
    match rules.is_some_and(|rules| rules.origins.contains(address.origin())) {
        true => Ok(address),
        false => Err(format!("is at {}, which this service does not allow", address.origin())),
    }
}

/// Whether an address that a name led to may be reached.
pub fn may_reach(rules: &Deliveries, wish: Wish, address: &WebAddress, ip: IpAddr) -> bool {
    let host = address.origin().host();
    // An address that is named as such is one of the settings' origins.
    let by_name =
        host.parse::<IpAddr>().is_ok() || rules.private_hosts.iter().any(|name| name.as_str() == host);
    wish == Wish::Service || by_name || is_public(ip)
}

pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// IANA's registry of special-purpose addresses.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match (a, b) {
        (0 | 10 | 127, _) | (169, 254) | (172, 16..=31) | (192, 168) => true,
        // Shared by carriers; benchmarks; protocols; 6to4 relays.
        (100, 64..=127) | (198, 18..=19) => true,
        (192, 0) => c == 0 || c == 2,
        (192, 88) => c == 99,
        (198, 51) => c == 100,
        (203, 0) => c == 113,
        // Multicast, and what is kept for later.
        _ => a >= 224,
    };
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let inner =
        |high: u16, low: u16| is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b) {
        // Addresses of IPv4 in another dress.
        (0, 0) if (c, d, e) == (0, 0, 0) && f == 0xffff => inner(g, h),
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => inner(g, h),
        (0x2002, high) => inner(high, c),
        // Teredo, documentation, ORCHID, benchmarks.
        (0x2001, second) => second >= 0x200 && second != 0xdb8,
        (0x3fff, second) => second >= 0x1000,
        // All that is given out to the world.
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::callers::{HostName, Origin};

    #[test]
    fn inside_and_outside() {
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "9.9.9.9",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn a_job_reaches_what_is_named() {
        let origin = |text: &str| Origin::parse(text).unwrap();
        let rules = Deliveries {
            origins: ["https://a.example", "http://in.example", "http://127.0.0.1:9"].map(origin).to_vec(),
            private_hosts: vec![HostName::try_from("in.example".to_string()).unwrap()],
            ..Deliveries::default()
        };
        let refused = |text: &str| allowed(Some(&rules), text).unwrap_err();
        assert_eq!(
            refused("https://b.example/x"),
            "is at https://b.example, which this service does not allow"
        );
        assert_eq!(refused("http://a.example/"), "is at http://a.example, which this service does not allow");
        assert_eq!(
            refused("https://a.example:444/"),
            "is at https://a.example:444, which this service does not allow"
        );
        assert_eq!(refused("https://x@a.example/"), "names a user: what is secret is no part of an address");
        assert!(allowed(None, "https://a.example/").is_err());
        let reach = |text: &str, ip: &str| {
            may_reach(&rules, Wish::Job, &allowed(Some(&rules), text).unwrap(), ip.parse().unwrap())
        };
        assert!(reach("https://A.example/x", "1.1.1.1") && !reach("https://a.example/x", "10.0.0.1"));
        assert!(reach("http://in.example/x", "10.0.0.1") && reach("http://127.0.0.1:9/", "127.0.0.1"));
        let own = WebAddress::parse("http://a.example/").unwrap();
        assert!(may_reach(&rules, Wish::Service, &own, "127.0.0.1".parse().unwrap()));
    }
}
