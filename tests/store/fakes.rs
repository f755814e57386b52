//! Daemons that are missing, that speak something else, and that die.
use crate::common::Scratch;
use crate::host::{at, fake, told};
use std::collections::BTreeSet;
use stillframe::formats::nix::store_path::StorePath;
use stillframe::store::{Store, StoreConfig};

/// A daemon that sends `sends`, then does `then`.
struct Fake {
    scratch: Scratch,
    config: StoreConfig,
}

const DAEMON: u64 = 0x6478_696f;
const LAST: u64 = 0x616c_7473;
const STAY: &str = "exec cat >/dev/null";

fn numbers(all: &[u64]) -> Vec<u8> {
    all.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn string(text: &str) -> Vec<u8> {
    let mut out = numbers(&[text.len() as u64]);
    out.extend(text.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// A whole handshake of protocol 1.34, and the answer to the options.
fn greeting() -> Vec<u8> {
    [numbers(&[DAEMON, 0x122]), string("2.8.0"), numbers(&[LAST, LAST])].concat()
}

impl Fake {
    fn new(sends: &[u8], then: &str) -> Fake {
        let scratch = Scratch::new();
        let bytes = scratch.join("bytes");
        std::fs::write(&bytes, sends).unwrap();
        let config = fake(&scratch, &format!("cat {}\n{then}\n", bytes.display()));
        Fake { scratch, config }
    }

    fn at(&self) -> String {
        at(&self.scratch)
    }

    /// What connecting to it says.
    fn refusal(&self) -> String {
        match Store::connect(&self.config) {
            Ok(_) => panic!("connected"),
            Err(e) => told(&e),
        }
    }

    /// What the first question after the handshake says.
    fn answer(&self) -> String {
        let mut store = Store::connect(&self.config).map_err(|e| told(&e)).unwrap();
        told(&store.valid(&BTreeSet::new()).unwrap_err())
    }
}

const AGAIN: &str = "what is in the store already stays; run the command again and it goes on from there";

#[test]
fn no_daemon_at_all() {
    let config = |words: &[&str]| StoreConfig {
        daemon: Some(words.iter().map(|w| w.to_string()).collect()),
        ..StoreConfig::default()
    };
    let refusal = |words: &[&str]| told(&Store::connect(&config(words)).map(drop).unwrap_err());
    assert_eq!(
        refusal(&["no-such-nix-daemon", "--stdio"]),
        "Store: cannot start `no-such-nix-daemon --stdio`: No such file or directory (os error 2) \
         (hint: Nix is not installed, or not on PATH (Debian: apt-get install nix-bin))"
    );
    assert_eq!(
        refusal(&["/"]),
        "Store: cannot start `/`: Permission denied (os error 13) (hint: check that the program may be executed)"
    );
}

#[test]
fn another_protocol_version() {
    let (older, newer) = ("use Nix 2.8 or later", "use an older Nix, or a newer stillframe");
    for (version, text, hint) in
        [(0x121, "1.33", older), (0x10a, "1.10", older), (0x223, "2.35", newer), (0, "0.0", older)]
    {
        let fake = Fake::new(&numbers(&[DAEMON, version]), STAY);
        assert_eq!(
            fake.refusal(),
            format!(
                "Store: the Nix daemon at {} speaks protocol {text}; stillframe needs 1.34 or later \
                 (hint: {hint})",
                fake.at()
            )
        );
    }
    let fake = Fake::new(&greeting(), STAY);
    assert_eq!(Store::connect(&fake.config).unwrap().version, "2.8.0");
}

#[test]
fn something_else_than_a_daemon() {
    for (sends, then) in [
        (&b"Welcome to Debian GNU/Linux 12\n"[..], STAY),
        // Only as much as the first number, and then it waits for us.
        (b"Welcome!", STAY),
        // Our own words back.
        (b"", "exec cat"),
    ] {
        let fake = Fake::new(sends, then);
        let wanted = format!(
            "Store: {} does not speak the Nix worker protocol \
             (hint: STILLFRAME_NIX_DAEMON must name a program that does what `nix-daemon --stdio` does)",
            fake.at()
        );
        assert_eq!(fake.refusal(), wanted);
    }
}

#[test]
fn a_daemon_that_ends_at_once() {
    let ended = |fake: &Fake, words: &str| {
        format!("Store: the Nix daemon at {} ended the connection{words} (hint: {AGAIN})", fake.at())
    };
    for sends in [&b""[..], b"oix", &numbers(&[DAEMON]), &numbers(&[DAEMON, 0x122, 5])] {
        let fake = Fake::new(sends, "exit 1");
        assert_eq!(fake.refusal(), ended(&fake, ""));
    }
    // Its last words, without their colours.
    let words = r"printf '\033[31;1merror:\033[0m no space\nleft\n' >&2; exit 1";
    let fake = Fake::new(b"", words);
    assert_eq!(fake.refusal(), ended(&fake, ": error: no space\nleft"));
    let fake = Fake::new(&greeting(), &format!("head -c 168 >/dev/null; {words}"));
    assert_eq!(fake.answer(), ended(&fake, ": error: no space\nleft"));
    // It closes its output and stays.
    let fake = Fake::new(b"", "echo stuck >&2; exec sleep 1000 >&-");
    assert_eq!(fake.refusal(), ended(&fake, ": stuck"));
}

#[test]
fn answers_that_make_no_sense() {
    let strange = |fake: &Fake, why: &str| {
        format!("Store: cannot talk to the Nix daemon at {}: {why} (hint: none)", fake.at())
    };
    let fake = Fake::new(&[greeting(), numbers(&[0x1234])].concat(), STAY);
    assert_eq!(fake.answer(), strange(&fake, "the daemon sent the unknown message 0x1234"));
    let fake = Fake::new(&[greeting(), numbers(&[LAST, 1, 1 << 40])].concat(), STAY);
    assert_eq!(fake.answer(), strange(&fake, "a string of 1099511627776 bytes"));
    let fake = Fake::new(&[greeting(), numbers(&[LAST, 1]), string("/elsewhere/x")].concat(), STAY);
    assert_eq!(
        fake.answer(),
        format!(
            "Store: the Nix daemon at {} named a bad path: \"/elsewhere/x\" is not below the store directory \
             /nix/store (hint: none)",
            fake.at()
        )
    );
    let hash = [numbers(&[LAST, 1]), string(""), string("no hash")].concat();
    let rest = [numbers(&[0, 0, 0, 0, 0]), string("")].concat();
    let fake = Fake::new(&[greeting(), hash, rest].concat(), STAY);
    let path = StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x").unwrap();
    assert_eq!(
        told(&Store::connect(&fake.config).unwrap().info(&path).unwrap_err()),
        "Store: the daemon sent a bad NAR hash: \"no hash\" is not a sha256 hash (SRI, base-16 or Nix base-32) \
         (hint: none)"
    );
}
