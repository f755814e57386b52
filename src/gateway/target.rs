//! The target of a request as everybody reads it: `/%71ueue` is `/queue` (RFC 3986, 6.2.2.2). The gateway decides by
//! the path, and an instance decodes it before it does, so both must see the same.
use hyper::Uri;
use hyper::http::uri::PathAndQuery;

/// With what needs no encoding in its path decoded; `None` where there is nothing to decode.
pub fn plain(uri: &Uri) -> Option<Uri> {
    let path = decoded(uri.path())?;
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

fn decoded(path: &str) -> Option<String> {
    if !path.contains('%') {
        return None;
    }
    let bytes = path.as_bytes();
    let byte = |at: usize| {
        let digits = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%')?;
        u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut plain, mut at, mut changed) = (String::with_capacity(path.len()), 0, false);
    while at < bytes.len() {
        match byte(at).filter(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b)) {
            Some(unreserved) => {
                plain.push(char::from(unreserved));
                (at, changed) = (at + 3, true);
            }
            None => {
                // A path has ASCII alone (RFC 3986, 2); what has not is left to whoever refuses it.
                let next = path[at..].chars().next()?;
                plain.push(next);
                at += next.len_utf8();
            }
        }
    }
    changed.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_encoding_is_decoded() {
        let seen = |target: &str| plain(&target.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(seen("/%70rompt").as_deref(), Some("/prompt"));
        assert_eq!(seen("/api%2Fjobs/%7E%6a?a=%70").as_deref(), Some("/api%2Fjobs/~j?a=%70"));
        assert_eq!(seen("/history/a%20b?x=%71"), None);
        assert_eq!(seen("/%2").as_deref(), None);
        assert_eq!(seen("/%73tillframe/validate").as_deref(), Some("/stillframe/validate"));
    }
}
