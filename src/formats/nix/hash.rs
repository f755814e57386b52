//! SHA-256 as Nix writes it: base-16, base-32, and SRI (`sha256-` and base-64).
use super::base32;
use crate::formats::hex::hex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sha256 hash (SRI, base-16 or Nix base-32)")]
pub struct HashError(pub String);

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Sha256 {
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Sha256(sha2::Sha256::digest(bytes.as_ref()).into())
    }

    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    pub fn to_base32(&self) -> String {
        base32::encode(&self.0)
    }

    pub fn parse(text: &str) -> Result<Self, HashError> {
        let error = || HashError(text.into());
        let rest = text.strip_prefix("sha256:").unwrap_or(text);
        let bytes = if let Some(sri) = text.strip_prefix("sha256-") {
            decode_base64(sri)
        } else if rest.len() == 64 {
            // `from_str_radix` alone takes a sign.
            let hex = rest.bytes().all(|b| b.is_ascii_hexdigit()).then_some(rest);
            hex.and_then(|h| (0..32).map(|i| u8::from_str_radix(&h[i * 2..i * 2 + 2], 16).ok()).collect())
        } else {
            base32::decode(rest, 32)
        };
        bytes.and_then(|b| b.try_into().ok()).map(Sha256).ok_or_else(error)
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix('=').unwrap_or(text);
    let (mut out, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for c in text.bytes() {
        held = held << 6 | BASE64.iter().position(|b| *b == c)? as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (held == 0).then_some(out)
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256-")?;
        for chunk in self.0.chunks(3) {
            let wide = chunk.iter().fold(0u32, |a, b| a << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for i in 0..4 {
                let c = if i <= chunk.len() { BASE64[(wide >> (18 - 6 * i) & 63) as usize] } else { b'=' };
                write!(f, "{}", c as char)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "workstation")]
impl schemars::JsonSchema for Sha256 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sha256".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^sha256-"})
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Sha256::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Nix's shortened hash of a store path: the digest folded by XOR into 20 bytes.
pub fn compress(digest: &[u8; 32]) -> [u8; 20] {
    let mut out = [0u8; 20];
    for (i, byte) in digest.iter().enumerate() {
        out[i % 20] ^= byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_hash_in_every_form() {
        // From `nix-hash --type sha256 --flat /dev/null` and its --base32 and --to-sri forms.
        let empty = Sha256::of("");
        assert_eq!(empty.to_hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.to_base32(), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(empty.to_string(), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        for text in [empty.to_hex(), empty.to_base32(), empty.to_string()] {
            assert_eq!(Sha256::parse(&text).unwrap(), empty);
        }
        assert_eq!(
            Sha256::parse("sha256-zz").unwrap_err().to_string(),
            "\"sha256-zz\" is not a sha256 hash (SRI, base-16 or Nix base-32)"
        );
    }
}
