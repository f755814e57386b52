//! Tickets, for what a browser sends without headers of a page's choice: a WebSocket, an image, a download.
//! Whoever has a key asks for one, and puts it into the address (`?ticket=`). Addresses end up in histories and
//! logs, so a ticket lets one request in, soon. The next process (`upgrade`) does not know this one's tickets:
//! a client asks for another.
use crate::gateway::clock::Millis;
use crate::gateway::key::{Key, key};
use crate::gateway::share::{Source, Who};
use crate::sys::random;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Uri;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;

/// How long one is good for.
pub const LIFE: Millis = 30_000;
/// How many there are at most, and how many of one client: the oldest go first.
const MOST: usize = 1_024;
const OF_CLIENT: usize = 64;
const NAME: &str = "ticket=";

#[derive(Default)]
pub struct Tickets {
    /// By what is remembered of their text.
    all: Mutex<HashMap<Key, Ticket>>,
}

struct Ticket {
    source: Source,
    /// The API key that it stands for; none where none is asked for.
    key: Option<Key>,
    until: Millis,
}

impl Tickets {
    pub fn issue(&self, who: &Who, now: Millis) -> io::Result<String> {
        let text = URL_SAFE_NO_PAD.encode(random::bytes::<24>()?);
        let mut all = self.all.lock();
        all.retain(|_, ticket| now <= ticket.until);
        let theirs = all.values().filter(|ticket| ticket.source == who.source).count();
        let of = (theirs >= OF_CLIENT).then_some(who.source);
        if of.is_some() || all.len() >= MOST {
            let mine = all.iter().filter(|(_, ticket)| of.is_none_or(|source| ticket.source == source));
            if let Some(oldest) = mine.min_by_key(|(_, ticket)| ticket.until).map(|(name, _)| *name) {
                all.remove(&oldest);
            }
        }
        all.insert(key(&text), Ticket { source: who.source, key: who.key, until: now + LIFE });
        Ok(text)
    }

    /// The API key that a ticket stands for, once.
    pub fn redeem(&self, text: &str, now: Millis) -> Option<Option<Key>> {
        let ticket = self.all.lock().remove(&key(text))?;
        (now <= ticket.until).then_some(ticket.key)
    }
}

/// The ticket of an address.
pub fn of(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix(NAME))
}

/// The address without it.
pub fn without(uri: &Uri) -> Option<Uri> {
    let rest: Vec<&str> = uri.query()?.split('&').filter(|pair| !pair.starts_with(NAME)).collect();
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    format!("{}{query}", uri.path()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(n: u32) -> Who {
        let source = Source::of(std::net::Ipv4Addr::from_bits(n).into());
        Who { source, key: Some((u64::from(n), 0)), keys: 1 }
    }

    #[test]
    fn a_ticket_lets_one_request_in_and_soon() {
        let tickets = Tickets::default();
        let one = tickets.issue(&who(1), 0).unwrap();
        let other = tickets.issue(&who(2), 0).unwrap();
        assert_eq!((one.len(), one == other), (32, false));
        assert_eq!(tickets.redeem(&one, LIFE), Some(Some((1, 0))));
        assert_eq!(tickets.redeem(&one, 0), None);
        assert_eq!(tickets.redeem(&other, LIFE + 1), None);
        assert_eq!(tickets.redeem("", 0), None);
    }

    #[test]
    fn tickets_are_bounded_and_a_client_loses_its_own_first() {
        let tickets = Tickets::default();
        let kept = tickets.issue(&who(1), 0).unwrap();
        let first = tickets.issue(&who(2), 1).unwrap();
        (0..OF_CLIENT as u64).for_each(|n| drop(tickets.issue(&who(2), 2 + n).unwrap()));
        assert_eq!(tickets.all.lock().len(), OF_CLIENT + 1);
        assert_eq!(tickets.redeem(&first, 3), None);
        assert!(tickets.redeem(&kept, 3).is_some());
        (0..2 * MOST as u32).for_each(|n| drop(tickets.issue(&who(n), 3).unwrap()));
        assert_eq!(tickets.all.lock().len(), MOST);
        tickets.issue(&who(1), LIFE + 100).unwrap();
        assert_eq!(tickets.all.lock().len(), 1);
    }

    #[test]
    fn addresses() {
        for (uri, ticket, rest) in [
            ("/ws?clientId=a&ticket=T&b=%20", Some("T"), Some("/ws?clientId=a&b=%20")),
            ("/ws?ticket=T", Some("T"), Some("/ws")),
            ("/?ticket=&ticket=U", Some(""), Some("/")),
            ("/ws?myticket=T", None, Some("/ws?myticket=T")),
            ("/ws", None, None),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(of(&uri), ticket, "{uri}");
            assert_eq!(without(&uri).map(|uri| uri.to_string()).as_deref(), rest);
        }
    }
}
