//! Query strings and path segments, decoded as aiohttp decodes them.

/// The text of a query's name or value; `None` where an escape is none, or it is no UTF-8.
pub fn decode(text: &str) -> Option<String> {
    unescape(text, true)
}

/// The text of one segment of a path, in which a plus sign is one.
pub fn decode_segment(text: &str) -> Option<String> {
    unescape(text, false)
}

fn unescape(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if plus_is_space => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                // `from_str_radix` would take a sign.
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The first value of this name. What cannot be decoded stays as it stands there.
pub fn get(query: &str, name: &str) -> Option<String> {
    let plain = |text: &str| decode(text).unwrap_or_else(|| text.to_string());
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (!pair.is_empty() && plain(key) == name).then(|| plain(value))
    })
}

/// A whole number as Python's `int` reads it from a text, as far as clients write it.
pub fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // One that no count reaches is as good as the largest.
    let number = digits.parse().unwrap_or(i64::MAX);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query() {
        let query = "a=1&b=x%20y+z&&c&a=2&%64=e&f=%zz&g=%+1";
        let get = |name| get(query, name);
        assert_eq!(get("a").as_deref(), Some("1"));
        assert_eq!(get("b").as_deref(), Some("x y z"));
        assert_eq!(get("c").as_deref(), Some(""));
        assert_eq!(get("d").as_deref(), Some("e"));
        assert_eq!(get("f").as_deref(), Some("%zz"));
        assert_eq!(get("g").as_deref(), Some("%+1"));
        assert_eq!((get("h"), get("")), (None, None));
        assert_eq!(decode_segment("a+b%2Fc").as_deref(), Some("a+b/c"));
        assert_eq!((decode("%f"), decode("%ff")), (None, None));
    }

    #[test]
    fn whole_numbers() {
        let cases =
            [("5", Some(5)), (" +7 ", Some(7)), ("-3", Some(-3)), ("007", Some(7)), ("", None), ("-", None)];
        for (text, number) in
            cases.into_iter().chain([("1.0", None), ("x", None), ("--1", None), ("+-1", None)])
        {
            assert_eq!(integer(text), number, "{text}");
        }
        assert_eq!(integer("99999999999999999999"), Some(i64::MAX));
    }
}
