//! API keys. The settings hold only their SHA-256. A key comes as `Authorization: Bearer K`, as
//! `X-Api-Key: K`, or as the password of `Authorization: Basic` (RFC 7617), which browsers ask for by
//! themselves; also among the subprotocols of a WebSocket (`subprotocol`), and by way of a `ticket`. The headers that carried it do not go on to the instance.
use crate::gateway::key::{self, Key};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use sha2::{Digest, Sha256};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BEARER: &str = "bearer ";
const BASIC: &str = "basic ";

/// What a request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    Nothing,
    Wrong(Key),
    Right(Key),
}

impl Brought {
    /// Of two the right one, else the first.
    pub fn or(self, other: Brought) -> Brought {
        match (self, other) {
            (Brought::Right(_), _) | (_, Brought::Nothing) => self,
            (Brought::Nothing, _) | (_, Brought::Right(_)) => other,
            (Brought::Wrong(_), Brought::Wrong(_)) => self,
        }
    }
}

pub struct Keys {
    hashes: Vec<[u8; 32]>,
}

impl Keys {
    /// From SHA-256 sums in hex.
    pub fn parse(sums: &[String]) -> Result<Keys, String> {
        let hashes = sums
            .iter()
            .map(|sum| unhex(sum).ok_or_else(|| "an API key is not the SHA-256 of one, in hex".to_string()));
        Ok(Keys { hashes: hashes.collect::<Result<_, _>>()? })
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    /// Whether this key is asked for still.
    pub fn has(&self, key: Key) -> bool {
        self.hashes.iter().any(|sum| key::of_sum(sum) == key)
    }

    /// The key in these headers. A right one is removed.
    pub fn admit(&self, headers: &mut HeaderMap) -> Brought {
        let mut brought = Brought::Nothing;
        let by_authorization =
            headers.get(AUTHORIZATION).and_then(|value| in_authorization(value.as_bytes()));
        let by_header = headers.get(API_KEY).map(|value| value.as_bytes().to_vec());
        for (name, key) in [(AUTHORIZATION, by_authorization), (API_KEY, by_header)] {
            let Some(key) = key else { continue };
            let found = self.look(&key);
            if matches!(found, Brought::Right(_)) {
                headers.remove(name);
            }
            brought = brought.or(found);
        }
        brought
    }

    /// Compares every hash to its end, so that the time it takes reveals nothing.
    pub fn look(&self, key: &[u8]) -> Brought {
        let asked: [u8; 32] = Sha256::digest(key).into();
        let mut found = 0u8;
        for hash in &self.hashes {
            let differs = hash.iter().zip(&asked).fold(0u8, |sum, (a, b)| sum | (a ^ b));
            found |= u8::from(std::hint::black_box(differs) == 0);
        }
        let key = key::of_sum(&asked);
        if found == 1 { Brought::Right(key) } else { Brought::Wrong(key) }
    }
}

/// The key of an `Authorization` header, if its scheme is one of ours.
fn in_authorization(value: &[u8]) -> Option<Vec<u8>> {
    if let Some(key) = after(value, BEARER) {
        return Some(key.to_vec());
    }
    let pair = base64(after(value, BASIC)?)?;
    let password = pair.iter().position(|b| *b == b':')?;
    Some(pair[password + 1..].to_vec())
}

/// What follows a scheme; its case does not matter (RFC 9110, 11.1).
fn after<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme.as_bytes()).then(|| rest.trim_ascii())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(out)
}

/// RFC 4648, section 4, with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, padding).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "secret", from sha256sum.
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn admitted(headers: &[(&'static str, &str)]) -> (Option<bool>, Vec<String>) {
        let keys = Keys::parse(&["0".repeat(64), SECRET.into()]).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let admitted = match keys.admit(&mut map) {
            Brought::Nothing => None,
            Brought::Wrong(_) => Some(false),
            Brought::Right(key) => Some(key == key::key("secret")),
        };
        (admitted, map.keys().map(|name| name.to_string()).collect())
    }

    #[test]
    fn a_key_is_known_in_each_form_and_taken_out() {
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("authorization", "bearer  secret"),
            ("x-api-key", "secret"),
            ("authorization", "Basic dXNlcjpzZWNyZXQ="),
            ("authorization", "Basic OnNlY3JldA"),
        ] {
            assert_eq!(admitted(&[(name, value)]), (Some(true), vec![]), "{value}");
        }
    }

    #[test]
    fn what_is_not_the_key_stays() {
        assert_eq!(
            admitted(&[("authorization", "Bearer other"), ("x-api-key", "secret")]),
            (Some(true), vec!["authorization".to_string()])
        );
        for (value, brought) in [
            ("Bearer secret2", Some(false)),
            ("Bearer ", Some(false)),
            ("Basic OnNlY3JldDI=", Some(false)),
            ("Bearer", None),
            ("Basic c2VjcmV0", None),
            ("Basic !!", None),
            ("Digest secret", None),
            ("secret", None),
            ("", None),
        ] {
            assert_eq!(
                admitted(&[("authorization", value)]),
                (brought, vec!["authorization".into()]),
                "{value}"
            );
        }
        assert_eq!(admitted(&[("x-api-key", "other")]), (Some(false), vec!["x-api-key".into()]));
        assert_eq!(admitted(&[]), (None, vec![]));
    }

    #[test]
    fn a_sum_is_in_hex() {
        assert!(Keys::parse(&[]).unwrap().is_empty());
        assert!(Keys::parse(&["secret".into()]).is_err());
    }
}
