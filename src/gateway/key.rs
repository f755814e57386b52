//! What is remembered of an id of a job or a client, and of an API key: 16 bytes, however long it is.
use sha2::{Digest, Sha256};

/// The first half of an id's SHA-256: the same in the process that comes after this one.
pub type Key = (u64, u64);

pub fn key(id: &str) -> Key {
    of_sum(&Sha256::digest(id.as_bytes()).into())
}

pub fn of_sum(sum: &[u8; 32]) -> Key {
    let half = |at: usize| sum[at..at + 8].iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
    (half(0), half(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_half_of_the_sum() {
        // From sha256sum of "secret".
        assert_eq!(key("secret"), (0x2bb8_0d53_7b1d_a3e3, 0x8bd3_0361_aa85_5686));
    }
}
