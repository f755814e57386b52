//! Random bytes and ids, from the kernel.
use crate::formats::comfy::api::ids;
use crate::sys::error::{Error, Kind, Result};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    if getrandom(&mut bytes, GetRandomFlags::empty())? != N {
        return Err(io::Error::other("the kernel gave too few random bytes"));
    }
    Ok(bytes)
}

/// A UUID of version 4 (RFC 9562, 5.4), as text in its canonical lowercase form.
pub fn uuid4() -> Result<String> {
    let failed = |e| Error::new(Kind::Io, "the kernel gives no random bytes").caused_by(e);
    Ok(ids::job_id(bytes().map_err(failed)?))
}

/// For what is spread, and guards nothing: 0 where the kernel gives none.
pub fn number() -> u64 {
    bytes().map_or(0, u64::from_ne_bytes)
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
