//! Who calls a service: the names that it is called by, the origins of pages that may call it (RFC 6454), and
//! the proxies that are believed what they say of their clients.
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::net::IpAddr;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Callers {
    /// Names of the service besides addresses, localhost and the machine's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
    /// Pages of these may change things and open WebSockets; their hosts are names of the service too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// Whose X-Forwarded-For is believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
}

impl Callers {
    pub fn is_empty(&self) -> bool {
        *self == Callers::default()
    }

    /// The name by which a workstation reaches the host: whoever types it there types it into a browser too.
    /// An address needs no naming, and what is no name is nobody's.
    pub fn add_host(&mut self, name: &str) {
        let name = HostName::try_from(name.to_string()).ok();
        let new = |name: &HostName| name.as_str().parse::<IpAddr>().is_err() && !self.hosts.contains(name);
        if let Some(name) = name.filter(new) {
            self.hosts.push(name);
        }
    }
}

/// A name as DNS has it: lower case, without the dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=253).contains(&host.len()) && host.bytes().all(plain) && !host.starts_with('.')
}

impl TryFrom<String> for HostName {
    type Error = String;

    fn try_from(text: String) -> Result<HostName, String> {
        let name = text.strip_suffix('.').unwrap_or(&text);
        if !is_name(name) {
            let right = "write the name alone, as in \"pictures.example\" (an international one as xn--…)";
            return Err(format!("{text:?} is no host name: {right}"));
        }
        Ok(HostName(name.to_ascii_lowercase()))
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.0
    }
}

/// The value of a `Host` header, or what follows the scheme of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// In lower case; an address of IPv6 without its brackets.
    pub host: String,
    pub port: Option<u16>,
}

impl Authority {
    pub fn parse(text: &str) -> Option<Authority> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                // Written as its shortest form, so that one address is one text.
                let address: std::net::Ipv6Addr = address.parse().ok()?;
                (address.to_string(), rest)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let host = host.strip_suffix('.').unwrap_or(host);
                (is_name(host).then(|| host.to_ascii_lowercase())?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            // RFC 3986, 3.2.3: an empty port is none.
            Some("") => None,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Authority { host, port })
    }
}

/// Where a page comes from, as browsers name it in `Origin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

impl Origin {
    pub fn parse(text: &str) -> Option<Origin> {
        let (scheme, rest) = text.split_once("://")?;
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(word) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let Authority { host, port } = Authority::parse(rest)?;
        Some(Origin { port: port.or(default_port(&scheme)), scheme, host })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// As it is written, else that of the scheme.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether a page of this origin that was asked for at this authority came from there. An authority
    /// without a port has the one that the scheme has: a proxy in between may speak TLS with the browser and
    /// none with us, so the scheme is the origin's.
    pub fn is_at(&self, authority: &Authority) -> bool {
        self.host == authority.host && self.port == authority.port.or(default_port(&self.scheme))
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}", self.scheme, self.host)?;
        match self.port {
            Some(port) if self.port != default_port(&self.scheme) => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Origin, String> {
        let right = "write it as browsers do, as in \"https://pictures.example\", without a path";
        Origin::parse(&text).ok_or_else(|| format!("{text:?} is no origin: {right}"))
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.to_string()
    }
}

/// An address, or all addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(one)) => {
                let shift = 32 - u32::from(self.bits);
                net.to_bits().checked_shr(shift) == one.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(one)) => {
                let shift = 128 - u32::from(self.bits);
                net.to_bits().checked_shr(shift) == one.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Network, String> {
        let wrong = || format!("{text:?} is no network: write \"10.0.0.0/8\", \"fd00::/8\" or an address");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(most) {
            bits if bits <= most => Ok(Network { address, bits }),
            _ => Err(wrong()),
        }
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        format!("{}/{}", network.address, network.bits)
    }
}

#[cfg(feature = "workstation")]
mod schemas {
    use super::{HostName, Network, Origin};
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use std::borrow::Cow;

    macro_rules! text {
        ($type:ident, $pattern:expr, $expects:expr) => {
            impl JsonSchema for $type {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({"type": "string", "pattern": $pattern, "x-expects": $expects})
                }
            }
        };
    }

    text!(HostName, "^[0-9A-Za-z_-][0-9A-Za-z_.-]*$", "a host name as in \"pictures.example\"");
    text!(Origin, "^[A-Za-z][0-9A-Za-z+.-]*://[^/ ]+$", "a web origin as in \"https://pictures.example\"");
    text!(Network, "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$", "a network as in \"10.0.0.0/8\", or an address");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::try_from(text.to_string()).unwrap()
    }

    #[test]
    fn origins_are_one_however_they_are_written() {
        for (text, shown) in [
            ("HTTPS://Pictures.Example", "https://pictures.example"),
            ("https://pictures.example:443", "https://pictures.example"),
            ("http://a.:80", "http://a"),
            ("http://a:443", "http://a:443"),
            ("http://[0:0::1]:8188", "http://[::1]:8188"),
            ("app://local", "app://local"),
        ] {
            assert_eq!(origin(text).to_string(), shown);
            assert_eq!(origin(shown), origin(text));
        }
        for text in ["null", "", "pictures.example", "https://", "https://a/", "https://a b", "://a"]
            .into_iter()
            .chain([
                "https://a:b",
                "https://a:99999",
                "https://[::1",
                "https://[::1]x",
                "https://u@a",
                "1://a",
            ])
        {
            assert!(Origin::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_page_is_at_its_own_host_and_port() {
        for (text, host, same) in [
            ("http://localhost:8188", "localhost:8188", true),
            ("http://LOCALHOST:8188", "localhost:8188", true),
            ("http://localhost:3000", "localhost:8188", false),
            ("http://a", "a", true),
            ("http://a", "a:80", true),
            ("https://a", "a", true),
            ("https://a", "A.:443", true),
            ("https://a", "a:80", false),
            ("http://a:80", "a:", true),
            ("http://a.evil.example", "a", false),
            ("http://[::1]:8188", "[::1]:8188", true),
        ] {
            assert_eq!(origin(text).is_at(&Authority::parse(host).unwrap()), same, "{text} {host}");
        }
        for host in ["", ":80", "a b", "a:b", "a,b", "a@b", "[::1", "[::1]80", "::1", "a:+8"] {
            assert_eq!(Authority::parse(host), None, "{host}");
        }
    }

    #[test]
    fn the_hosts_own_address_is_a_name_once() {
        let mut callers = Callers::default();
        for name in ["GPU.lan", "gpu.lan", "10.0.0.5", "fd00::5", "user@gpu", ""] {
            callers.add_host(name);
        }
        assert_eq!(callers.hosts.iter().map(HostName::as_str).collect::<Vec<_>>(), ["gpu.lan"]);
    }

    #[test]
    fn names_and_networks() {
        assert_eq!(HostName::try_from("GPU.Lan.".to_string()).unwrap().as_str(), "gpu.lan");
        for text in ["", ".", "http://a", "a:80", "bücher.example", "a/b"] {
            assert!(HostName::try_from(text.to_string()).is_err(), "{text}");
        }
        let network = |text: &str| Network::try_from(text.to_string());
        for (text, address, is_in) in [
            ("10.0.0.0/8", "10.200.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "fd12::1", true),
            ("fd00::1", "fd00::2", false),
        ] {
            let network = network(text).unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), is_in, "{text} {address}");
            assert_eq!(Network::try_from(String::from(network)), Ok(network));
        }
        for text in ["10.0.0.0/33", "fd00::/129", "a", "10.0.0.0/", "10.0.0.0/-1", "10.0.0"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
