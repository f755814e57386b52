//! What is written to stderr for the journal: one logfmt line per request, and notes. One task collects the
//! lines and writes them, so that no request pays for a system call and a slow journal holds nobody up.
use crate::gateway::instance::Instance;
use crate::gateway::refusal::Fault;
use hyper::{Method, Uri};
use parking_lot::Mutex;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The most bytes that wait to be written; lines beyond it are counted and thrown away.
const MOST: usize = 1 << 20;
/// How long lines are collected before they are written.
const COLLECT: Duration = Duration::from_millis(50);
/// A longer path is cut.
const PATH: usize = 512;

/// sd-daemon(3): the prefix that gives a line its priority.
#[derive(Debug, Clone, Copy)]
pub enum Level {
    Error,
    Warning,
    Info,
}

impl Level {
    fn prefix(self) -> &'static [u8] {
        match self {
            Level::Error => b"<3>",
            Level::Warning => b"<4>",
            Level::Info => b"<6>",
        }
    }
}

#[derive(Default)]
pub struct Log {
    lines: Mutex<Lines>,
    more: Notify,
}

#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    lost: u64,
}

/// One request, when it is over.
pub struct Line<'a> {
    pub client: IpAddr,
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub status: u16,
    pub bytes: u64,
    pub took: Duration,
    pub instance: Option<&'a Arc<Instance>>,
    pub upgrade: bool,
    pub fault: Option<Fault>,
}

impl Log {
    pub fn note(&self, level: Level, text: &str) {
        self.add(|out| {
            out.extend_from_slice(level.prefix());
            out.extend(text.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b }));
            out.push(b'\n');
        });
    }

    pub fn request(&self, line: &Line) {
        self.add(|out| write_line(out, line));
    }

    fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.lines.lock();
        if lines.text.len() > MOST {
            lines.lost += 1;
            return;
        }
        let first = lines.text.is_empty();
        write(&mut lines.text);
        drop(lines);
        if first {
            self.more.notify_one();
        }
    }

    fn take(&self, spare: Vec<u8>) -> Vec<u8> {
        let mut lines = self.lines.lock();
        let mut text = std::mem::replace(&mut lines.text, spare);
        let lost = std::mem::take(&mut lines.lost);
        if lost > 0 {
            text.extend_from_slice(format!("<4>{lost} lines lost: the journal is too slow\n").as_bytes());
        }
        text
    }

    /// Writes what is collected, until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut spare = Vec::new();
        loop {
            self.more.notified().await;
            tokio::time::sleep(COLLECT).await;
            let text = self.take(spare);
            // Not in this thread: stderr is a pipe or a socket, and blocks when the journal does not read.
            spare = tokio::task::spawn_blocking(move || {
                let mut text = text;
                put(&text);
                text.clear();
                // The memory that one burst took is given back.
                text.shrink_to(64 * 1024);
                text
            })
            .await
            .unwrap_or_default();
        }
    }

    /// Writes what is left, when the process ends.
    pub fn flush(&self) {
        put(&self.take(Vec::new()));
    }
}

fn put(text: &[u8]) {
    // There is nobody to tell when stderr is closed.
    let _ = std::io::stderr().write_all(text);
}

fn write_line(out: &mut Vec<u8>, line: &Line) {
    out.extend_from_slice(b"<6>client=");
    // Writing to a vector does not fail.
    let _ = write!(out, "{}", line.client);
    out.extend_from_slice(b" method=");
    safe(out, line.method.as_str(), 16);
    out.extend_from_slice(b" path=");
    // Never the query: it holds client ids, names of pictures, sometimes a token.
    safe(out, line.uri.path(), PATH);
    out.extend_from_slice(b" status=");
    number(out, u64::from(line.status));
    out.extend_from_slice(b" bytes=");
    number(out, line.bytes);
    out.extend_from_slice(b" ms=");
    let micros = line.took.as_micros() as u64;
    number(out, micros / 1000);
    out.push(b'.');
    let rest = micros % 1000;
    out.extend([b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8, b'0' + (rest % 10) as u8]);
    out.extend_from_slice(b" instance=");
    out.extend_from_slice(line.instance.map_or(b"-", |i| i.id().as_bytes()));
    out.extend_from_slice(if line.upgrade { b" upgrade=yes" } else { b" upgrade=no" });
    if let Some(fault) = line.fault {
        out.extend_from_slice(b" error=");
        out.extend_from_slice(fault.name().as_bytes());
    }
    out.push(b'\n');
}

fn number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Text from outside: what is not plain ASCII is written as `\xNN`, so that no line and no field can be
/// forged.
fn safe(out: &mut Vec<u8>, text: &str, most: usize) {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    let shown = &text.as_bytes()[..text.len().min(most)];
    if shown.iter().copied().all(plain) {
        out.extend_from_slice(shown);
    } else {
        for &b in shown {
            if plain(b) {
                out.push(b);
            } else {
                out.extend_from_slice(&[b'\\', b'x', hex(b >> 4), hex(b & 15)]);
            }
        }
    }
    if text.len() > most {
        out.extend_from_slice(b"...");
    }
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[usize::from(digit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(method: &str, uri: &str) -> String {
        let mut out = Vec::new();
        write_line(
            &mut out,
            &Line {
                client: "10.0.0.7".parse().unwrap(),
                method: &method.parse().unwrap(),
                uri: &uri.parse().unwrap(),
                status: 200,
                bytes: 1234,
                took: Duration::from_micros(12_045),
                instance: None,
                upgrade: false,
                fault: Some(Fault::InstanceSlow),
            },
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line() {
        assert_eq!(
            written("GET", "/view?filename=secret.png"),
            "<6>client=10.0.0.7 method=GET path=/view status=200 bytes=1234 ms=12.045 instance=- upgrade=no \
             error=instance-slow\n"
        );
    }

    #[test]
    fn a_hostile_path_forges_nothing() {
        let line = written("GET", "/a\"b{é");
        assert!(line.contains(r"path=/a\x22b{\xc3\xa9 status=200"), "{line}");
        let mut out = Vec::new();
        safe(&mut out, "a b\n<3>\u{7f}\\", 100);
        assert_eq!(out, br"a\x20b\x0a<3>\x7f\x5c");
        let long = written("GET", &format!("/{}", "a".repeat(5000)));
        assert!(long.len() < 700 && long.contains("... status="));
    }

    #[test]
    fn a_full_log_counts_what_it_lost() {
        let log = Log::default();
        let text = "x".repeat(1 << 16);
        (0..40).for_each(|_| log.note(Level::Info, &text));
        let written = String::from_utf8(log.take(Vec::new())).unwrap();
        assert!(written.len() < 2 * MOST);
        assert!(written.ends_with("lines lost: the journal is too slow\n"));
        log.note(Level::Error, "one\ntwo");
        assert_eq!(log.take(Vec::new()), b"<3>one two\n");
    }

    #[test]
    fn numbers() {
        for n in [0, 9, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}
