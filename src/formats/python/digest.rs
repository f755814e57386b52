//! SHA-256 digests in the two spellings Python packaging uses: hex (indexes, lock files) and
//! unpadded URL-safe base64 (RECORD).

use crate::formats::hex::hex;

pub type Sha256Digest = [u8; 32];

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Reads 64 hex digits, in either case.
pub fn parse_hex(text: &str) -> Option<Sha256Digest> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut out = [0u8; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

/// Unpadded URL-safe base64, as PEP 427 wants it in RECORD.
pub fn base64url(digest: &Sha256Digest) -> String {
    let mut out = String::with_capacity(43);
    for chunk in digest.chunks(3) {
        let word = chunk.iter().fold(0u32, |acc, b| (acc << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            out.push(BASE64[(word >> (18 - 6 * index)) as usize & 63] as char);
        }
    }
    out
}

/// Reads unpadded (or padded) URL-safe base64 of exactly 32 bytes; unused bits must be zero.
pub fn parse_base64url(text: &str) -> Option<Sha256Digest> {
    let text = text.strip_suffix('=').unwrap_or(text);
    if text.len() != 43 {
        return None;
    }
    let mut out = [0u8; 32];
    let (mut word, mut bits, mut at) = (0u32, 0u32, 0usize);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        word = (word << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            *out.get_mut(at)? = (word >> bits) as u8;
            word &= (1 << bits) - 1;
            at += 1;
        }
    }
    (at == 32 && word == 0).then_some(out)
}

/// `serde(with = "digest::hex_option")`: an optional digest as a hex string.
pub mod hex_option {
    use super::{Sha256Digest, hex, parse_hex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(d: &Option<Sha256Digest>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(digest) => s.serialize_some(&hex(digest)),
            None => s.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Sha256Digest>, D::Error> {
        match Option::<String>::deserialize(d)? {
            None => Ok(None),
            Some(text) => match parse_hex(&text) {
                Some(digest) => Ok(Some(digest)),
                None => Err(D::Error::custom("not a sha256 in hex")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn spellings_of_the_empty_file() {
        let empty: Sha256Digest = Sha256::digest(b"").into();
        assert_eq!(base64url(&empty), "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(parse_base64url("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"), Some(empty));
        assert_eq!(parse_base64url("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="), Some(empty));
        assert_eq!(hex(&empty), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(parse_hex(&hex(&empty).to_uppercase()), Some(empty));
    }

    #[test]
    fn rejects_other_lengths_and_stray_bits() {
        assert_eq!(parse_hex("e3b0"), None);
        assert_eq!(parse_base64url("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFV"), None);
        assert_eq!(parse_base64url("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"), None);
        assert_eq!(parse_base64url(""), None);
    }
}
