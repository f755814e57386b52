//! Standard Webhooks (https://www.standardwebhooks.com, specification 1.0.0): what a receiver checks a message by.
//!
//! Signed is `id.timestamp.body` with HMAC-SHA256; a secret is `whsec_` and the key in base64.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

pub const ID: &str = "webhook-id";
pub const TIMESTAMP: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";

const PREFIX: &str = "whsec_";
/// What the specification asks of a key, in bytes.
const SHORTEST: usize = 24;
const LONGEST: usize = 64;

/// A signing key. It is never shown.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// What is wrong with a secret is said without it.
    pub fn parse(secret: &str) -> Result<Key, &'static str> {
        let text = secret.strip_prefix(PREFIX).ok_or("does not begin with whsec_")?;
        let key = STANDARD.decode(text).map_err(|_| "is not base64 behind whsec_")?;
        if !(SHORTEST..=LONGEST).contains(&key.len()) {
            return Err("is not of 24 to 64 bytes");
        }
        Ok(Key(key))
    }

    /// The value of `webhook-signature`. `timestamp`: seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mac = hmac(&self.0, &[id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body]);
        format!("v1,{}", STANDARD.encode(mac))
    }
}

/// RFC 2104 with SHA-256, of the parts as one.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_reference_implementations() {
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_it() {
        for (secret, why) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not begin with whsec_"),
            ("whsec_***", "is not base64 behind whsec_"),
            ("whsec_c2hvcnQ=", "is not of 24 to 64 bytes"),
        ] {
            assert_eq!(Key::parse(secret).err(), Some(why));
        }
    }
}
