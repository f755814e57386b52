//! Whose a job is. An API key tells it; without keys the client's own id does, and without that its address.
use crate::gateway::key::Key;
use crate::gateway::share::Who;
use crate::jobs::model::Owner;

const KEY: &str = "key-";

/// Never the key itself: the first half of its SHA-256.
pub fn owner(who: &Who, client: Option<&str>) -> Owner {
    match (who.key, client) {
        (Some((high, low)), _) => format!("{KEY}{high:016x}{low:016x}"),
        (None, Some(client)) => format!("client-{client}"),
        (None, None) => format!("address-{}", who.source),
    }
}

/// The key that an owner stands for.
pub fn key_of(owner: &str) -> Option<Key> {
    let digits = owner.strip_prefix(KEY)?;
    let half = |at: usize| u64::from_str_radix(digits.get(at..at + 16)?, 16).ok();
    if digits.len() != 32 {
        return None;
    }
    Some((half(0)?, half(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::share::Source;

    #[test]
    fn a_key_is_found_again_in_its_owner() {
        let source = Source::of("10.0.0.1".parse().unwrap());
        let who = |key| Who { source, key, keys: 2 };
        let key = (0x2bb8_0d53_7b1d_a3e3, 7);
        assert_eq!(owner(&who(Some(key)), Some("c")), "key-2bb80d537b1da3e30000000000000007");
        assert_eq!(key_of(&owner(&who(Some(key)), None)), Some(key));
        assert_eq!(owner(&who(None), Some("c")), "client-c");
        assert_eq!(owner(&who(None), None), "address-10.0.0.1");
        assert_eq!((key_of("client-c"), key_of("key-zz")), (None, None));
    }
}
