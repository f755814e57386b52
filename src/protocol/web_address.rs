//! An address that something is sent to: `http` or `https`, without a user, a password or a fragment.
use crate::protocol::callers::Origin;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};

/// The longest one that is read; what browsers and servers take is less.
const LONGEST: usize = 8 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebAddress {
    origin: Origin,
    /// Path and query, as they were written.
    target: String,
}

impl WebAddress {
    /// What is wrong with one is said without it: a query may hold what is nobody else's.
    pub fn parse(text: &str) -> Result<WebAddress, &'static str> {
        if text.len() > LONGEST {
            return Err("is longer than 8 KiB");
        }
        let (scheme, rest) = text.split_once("://").ok_or("is not an http or https address")?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err("is not an http or https address");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("names a user: what is secret is no part of an address");
        }
        if target.contains('#') {
            return Err("has a fragment, which no server sees");
        }
        if !target.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("has blanks or letters that are not encoded");
        }
        let origin = Origin::parse(&format!("{scheme}://{authority}")).ok_or("names no host")?;
        if origin.port() == Some(0) {
            return Err("has the port 0");
        }
        let target = if target.starts_with('/') { target.to_string() } else { format!("/{target}") };
        Ok(WebAddress { origin, target })
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn is_https(&self) -> bool {
        self.origin.scheme() == "https"
    }

    pub fn port(&self) -> u16 {
        self.origin.port().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The value of `Host`.
    pub fn authority(&self) -> String {
        let origin = self.origin.to_string();
        origin.split_once("://").map_or(origin.clone(), |(_, authority)| authority.to_string())
    }

    /// Without its query, where people put tokens.
    pub fn shown(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        let more = if path.len() < self.target.len() { "?…" } else { "" };
        format!("{}{path}{more}", self.origin)
    }
}

impl Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.target)
    }
}

impl TryFrom<String> for WebAddress {
    type Error = String;

    fn try_from(text: String) -> Result<WebAddress, String> {
        WebAddress::parse(&text).map_err(|why| format!("an address {why}"))
    }
}

impl From<WebAddress> for String {
    fn from(address: WebAddress) -> String {
        address.to_string()
    }
}

#[cfg(feature = "workstation")]
impl schemars::JsonSchema for WebAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WebAddress".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^/ ]+",
            "x-expects": "an address as in \"https://pictures.example/hook\""})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let read = |text: &str| {
            let address = WebAddress::parse(text).unwrap();
            (address.to_string(), address.authority(), address.port(), address.shown())
        };
        let told = |a: &str, b: &str, port, c: &str| (a.to_string(), b.to_string(), port, c.to_string());
        assert_eq!(
            read("https://Hooks.Example/a?token=1"),
            told("https://hooks.example/a?token=1", "hooks.example", 443, "https://hooks.example/a?…")
        );
        assert_eq!(read("HTTP://[::1]:90"), told("http://[::1]:90/", "[::1]:90", 90, "http://[::1]:90/"));
        assert_eq!(read("https://h?x"), told("https://h/?x", "h", 443, "https://h/?…"));
    }

    #[test]
    fn what_is_none_is_refused() {
        for (text, why) in [
            ("ftp://h/x", "is not an http or https address"),
            ("h/x", "is not an http or https address"),
            ("http://me:secret@h/", "names a user: what is secret is no part of an address"),
            ("http://h/#x", "has a fragment, which no server sees"),
            ("http://h/a b", "has blanks or letters that are not encoded"),
            ("http://h/\r\nx: y", "has blanks or letters that are not encoded"),
            ("http:///x", "names no host"),
            ("http://h:0/", "has the port 0"),
        ] {
            assert_eq!(WebAddress::parse(text), Err(why), "{text}");
        }
    }
}
