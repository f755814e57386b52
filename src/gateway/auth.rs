//! API keys. The settings hold only their SHA-256. A key comes as `Authorization: Bearer K`, as
//! `X-Api-Key: K`, or as the password of `Authorization: Basic` (RFC 7617), which browsers ask for by
//! themselves. The headers that carried it do not go on to the instance.
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use sha2::{Digest, Sha256};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BEARER: &str = "bearer ";
const BASIC: &str = "basic ";

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

    /// Whether these headers carry a key; those that do lose it.
    pub fn admit(&self, headers: &mut HeaderMap) -> bool {
        if self.is_empty() {
            return true;
        }
        let by_authorization = headers.get(AUTHORIZATION).is_some_and(|value| {
            let value = value.as_bytes();
            if let Some(key) = after(value, BEARER) {
                self.knows(key)
            } else if let Some(pair) = after(value, BASIC).and_then(base64) {
                let password = pair.iter().position(|b| *b == b':').map(|at| &pair[at + 1..]);
                password.is_some_and(|key| self.knows(key))
            } else {
                false
            }
        });
        let by_header = headers.get(API_KEY).is_some_and(|value| self.knows(value.as_bytes()));
        if by_authorization {
            headers.remove(AUTHORIZATION);
        }
        if by_header {
            headers.remove(API_KEY);
        }
        by_authorization || by_header
    }

    /// Compares every hash to its end, so that the time it takes reveals nothing.
    fn knows(&self, key: &[u8]) -> bool {
        let asked: [u8; 32] = Sha256::digest(key).into();
        let mut found = 0u8;
        for hash in &self.hashes {
            let differs = hash.iter().zip(&asked).fold(0u8, |sum, (a, b)| sum | (a ^ b));
            found |= u8::from(std::hint::black_box(differs) == 0);
        }
        found == 1
    }
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

    fn admitted(headers: &[(&'static str, &str)]) -> (bool, Vec<String>) {
        let keys = Keys::parse(&["0".repeat(64), SECRET.into()]).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let admitted = keys.admit(&mut map);
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
            assert_eq!(admitted(&[(name, value)]), (true, vec![]), "{value}");
        }
    }

    #[test]
    fn what_is_not_the_key_stays() {
        assert_eq!(
            admitted(&[("authorization", "Bearer other"), ("x-api-key", "secret")]),
            (true, vec!["authorization".to_string()])
        );
        for value in ["Bearer secret2", "Bearer", "Basic c2VjcmV0", "Basic !!", "Digest secret", "secret", ""]
        {
            assert!(!admitted(&[("authorization", value)]).0, "{value}");
        }
        assert!(!admitted(&[]).0);
    }

    #[test]
    fn without_keys_nothing_is_asked() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(Keys::parse(&[]).unwrap().admit(&mut headers));
        assert_eq!(headers.len(), 1);
        assert!(Keys::parse(&["secret".into()]).is_err());
    }
}
