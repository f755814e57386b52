//! Random ids, from the kernel.
use crate::formats::hex::hex;
use crate::sys::error::{Error, Kind, Result};
use rustix::rand::{GetRandomFlags, getrandom};

/// A UUID of version 4 (RFC 9562, 5.4), as text in its canonical lowercase form.
pub fn uuid4() -> Result<String> {
    let mut bytes = [0u8; 16];
    let failed = || Error::new(Kind::Io, "the kernel gives no random bytes");
    let got = getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|e| failed().caused_by(e))?;
    if got != bytes.len() {
        return Err(failed());
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    Ok(parts.join("-"))
}

/// For what is spread, and guards nothing: 0 where the kernel gives none.
pub fn number() -> u64 {
    let mut bytes = [0u8; 8];
    let got = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap_or(0);
    if got == bytes.len() { u64::from_ne_bytes(bytes) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_of_version_4() {
        let (one, other) = (uuid4().unwrap(), uuid4().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'4'));
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(one.matches('-').count(), 4);
    }
}
