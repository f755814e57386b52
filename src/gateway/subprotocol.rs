//! A key among the subprotocols of a WebSocket: the one header that a page in a browser can choose there
//! (`new WebSocket(url, ["stillframe", "stillframe.key." + base64url(key)])`).
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};

const OURS: &str = "stillframe";
const KEY: &str = "stillframe.key.";

pub struct Offer {
    pub key: Vec<u8>,
    /// What to answer where the instance chooses none: a client that offered some and hears of none ends the
    /// connection (RFC 6455, 4.1), as it does for one that it did not offer.
    pub answer: HeaderValue,
}

/// Takes what is ours out of the offered subprotocols; nothing where there is no key among them.
pub fn take(headers: &mut HeaderMap) -> Option<Offer> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    let offered: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let with_key = offered.iter().find(|name| name.starts_with(KEY))?;
    // Its own text is the last resort: it says nothing to the client that it did not know.
    let answer = if offered.contains(&OURS) { OURS } else { with_key };
    let answer = HeaderValue::from_str(answer).ok()?;
    let key = with_key.strip_prefix(KEY).map(decode)?;
    let others: Vec<&str> =
        offered.iter().copied().filter(|name| *name != OURS && !name.starts_with(KEY)).collect();
    let others = HeaderValue::from_str(&others.join(", ")).ok().filter(|others| !others.is_empty());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(others) = others {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    }
    Some(Offer { key, answer })
}

/// RFC 4648, section 5, with or without padding. What is not that is no key either.
fn decode(text: &str) -> Vec<u8> {
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::URL_SAFE, padding).decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_out_and_one_of_the_offered_is_answered() {
        for (offered, key, answer, left) in [
            (vec!["stillframe.key.c2VjcmV0"], "secret", "stillframe.key.c2VjcmV0", None),
            (vec!["stillframe, stillframe.key.c2VjcmV0"], "secret", "stillframe", None),
            (vec!["a", "stillframe.key.c2VjcmV0,b"], "secret", "stillframe.key.c2VjcmV0", Some("a, b")),
            (vec!["a , stillframe.key.LV8_-w, stillframe"], "-_?\u{fb}", "stillframe", Some("a")),
            (vec!["stillframe.key.*"], "", "stillframe.key.*", None),
        ] {
            let mut headers = HeaderMap::new();
            for line in &offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
            }
            let offer = take(&mut headers).unwrap();
            let key: Vec<u8> = key.chars().map(|c| c as u8).collect();
            assert_eq!((offer.key, offer.answer.to_str().unwrap()), (key, answer), "{offered:?}");
            assert_eq!(headers.get(SEC_WEBSOCKET_PROTOCOL).map(|v| v.to_str().unwrap()), left);
        }
        let mut headers = HeaderMap::new();
        assert!(take(&mut headers).is_none());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, "stillframe, a".parse().unwrap());
        assert!(take(&mut headers).is_none());
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "stillframe, a");
    }
}
