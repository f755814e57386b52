//! Credentials in texts: in addresses (RFC 3986: the user information, and parameters of the query and the fragment that are
//! known to carry them), tokens that large services mark with a prefix of their own, private keys (RFC 7468), and values that
//! look random behind a name like `api_key`. Whoever records an address, and whoever reads a file for secrets, asks here.

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A password, a token as the user's name, or a parameter of this name.
    Address {
        part: String,
        random: bool,
    },
    /// Whose.
    Token(&'static str),
    PrivateKey,
    /// A value behind this name that looks random: it may be an identifier, too.
    Value(String),
}

impl What {
    /// Whether it is a credential by its form, not by its name and looks alone.
    pub fn is_certain(&self) -> bool {
        !matches!(self, What::Value(_))
    }

    /// Whether it is one in a program too, whose texts have examples and defaults (`http://admin:admin@localhost`).
    pub fn is_certain_in_code(&self) -> bool {
        self.is_certain() && !matches!(self, What::Address { random: false, .. })
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Address { part, .. } => write!(f, "an address with {part}"),
            What::Token(whose) => write!(f, "a {whose} token"),
            What::PrivateKey => f.write_str("a private key"),
            What::Value(name) => write!(f, "a value for `{name}` that looks like a credential"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// From 1.
    pub line: usize,
    pub what: What,
}

/// Prefix, the least length of what follows, whether `-` and `_` belong to it, whose.
const TOKENS: &[(&str, usize, bool, &str)] = &[
    ("ghp_", 30, false, "GitHub"),
    ("gho_", 30, false, "GitHub"),
    ("ghu_", 30, false, "GitHub"),
    ("ghs_", 30, false, "GitHub"),
    ("ghr_", 30, false, "GitHub"),
    ("github_pat_", 40, true, "GitHub"),
    ("glpat-", 20, true, "GitLab"),
    ("hf_", 30, false, "Hugging Face"),
    ("sk-ant-", 30, true, "Anthropic"),
    ("sk-proj-", 30, true, "OpenAI"),
    ("sk-", 40, false, "OpenAI"),
    ("r8_", 30, false, "Replicate"),
    ("gsk_", 40, false, "Groq"),
    ("nvapi-", 40, true, "NVIDIA"),
    ("AKIA", 16, false, "AWS"),
    ("ASIA", 16, false, "AWS"),
    ("ya29.", 30, true, "Google"),
    ("xoxb-", 20, true, "Slack"),
    ("xoxp-", 20, true, "Slack"),
    ("xoxa-", 20, true, "Slack"),
    ("xapp-", 20, true, "Slack"),
    ("sk_live_", 20, false, "Stripe"),
    ("rk_live_", 20, false, "Stripe"),
    ("npm_", 36, false, "npm"),
    ("pypi-AgE", 40, true, "PyPI"),
    ("dop_v1_", 50, false, "DigitalOcean"),
    ("shpat_", 30, false, "Shopify"),
    ("SG.", 40, true, "SendGrid"),
    ("tskey-", 20, true, "Tailscale"),
    ("dckr_pat_", 20, true, "Docker"),
];

/// Parameters of an address that carry a credential, whatever their case.
fn carries(parameter: &str) -> bool {
    let name = decoded(parameter).to_ascii_lowercase().replace('_', "-");
    matches!(
        &*name,
        "key"
            | "sig"
            | "sign"
            | "auth"
            | "jwt"
            | "code"
            | "pat"
            | "pwd"
            | "pass"
            | "passwd"
            | "awsaccesskeyid"
    ) || [
        "token",
        "secret",
        "password",
        "signature",
        "credential",
        "api-key",
        "apikey",
        "access-key",
        "authorization",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// Percent-encoding undone, as far as ASCII goes.
fn decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// A word that stands for a credential in a document.
fn placeholder(value: &str) -> bool {
    let lower = decoded(value).to_ascii_lowercase();
    let words =
        ["your", "xxx", "changeme", "change_me", "placeholder", "example", "insert", "paste", "dummy", "***"];
    let whole = [
        "password", "passwd", "pass", "pwd", "token", "secret", "user", "username", "none", "null", "true",
        "false", "key",
    ];
    lower.len() < 3
        || lower.starts_with(['<', '$', '{', '[', '%', '(', '*', '.'])
        || whole.contains(&lower.as_str())
        || words.iter().any(|word| lower.contains(word))
        || lower.bytes().all(|b| b == lower.as_bytes()[0])
}

fn distinct(value: &str) -> usize {
    let mut seen = [false; 256];
    value.bytes().for_each(|b| seen[usize::from(b)] = true);
    seen.iter().filter(|s| **s).count()
}

/// Random letters and digits, not a word or a number.
fn looks_random(value: &str) -> bool {
    let has = |of: fn(&u8) -> bool| value.bytes().any(|b| of(&b));
    value.len() >= 16
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && distinct(value) >= 10
        && !placeholder(value)
}

/// A known token that begins at the start of the text: its length, and whose it is.
fn token_at(text: &str) -> Option<(usize, &'static str)> {
    let (prefix, least, punctuated, whose) = TOKENS.iter().find(|(prefix, ..)| text.starts_with(prefix))?;
    let body = &text[prefix.len()..];
    let own = |b: u8| b.is_ascii_alphanumeric() || (*punctuated && matches!(b, b'-' | b'_' | b'.'));
    let length = body.bytes().take_while(|b| own(*b)).count();
    let body = &body[..length];
    // AWS's are of capitals and digits, and of one length.
    let aws = *whose != "AWS" || (length == 16 && !body.bytes().any(|b| b.is_ascii_lowercase()));
    (length >= *least && aws && distinct(body) >= 8 && !placeholder(body))
        .then_some((prefix.len() + length, whose))
}

/// Every known token of a line, by place.
fn tokens(line: &str) -> impl Iterator<Item = (usize, usize, &'static str)> {
    let bytes = line.as_bytes();
    let starts = (0..bytes.len()).filter(move |at| {
        let before = at.checked_sub(1).map(|b| bytes[b]);
        let begins = matches!(
            bytes[*at],
            b'g' | b'h' | b's' | b'r' | b'n' | b'A' | b'y' | b'x' | b'p' | b'd' | b'S' | b't'
        );
        begins && !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    let mut end = 0;
    starts.filter_map(move |at| {
        let (length, whose) = (at >= end).then(|| token_at(line.get(at..)?)).flatten()?;
        end = at + length;
        Some((at, length, whose))
    })
}

/// An address in a text, in its parts.
struct Address<'a> {
    start: usize,
    end: usize,
    scheme: &'a str,
    /// Before the `@`.
    user: Option<&'a str>,
    /// From the host to the query.
    middle: &'a str,
    /// The query and the fragment, each with what it begins with.
    tails: Vec<&'a str>,
}

/// What ends an address in a text.
fn outer(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '<' | '>' | '`')
}

fn addresses(line: &str) -> Vec<Address<'_>> {
    let mut out = Vec::new();
    let mut from = 0;
    while let Some(colon) = line[from..].find("://").map(|at| from + at) {
        let own = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let start = line[from..colon]
            .rfind(|c| !own(c))
            .map_or(from, |at| from + at + line[from + at..].chars().next().map_or(1, char::len_utf8));
        let rest = &line[colon + 3..];
        let end = rest.find(outer).unwrap_or(rest.len());
        // An address in an address is one for itself: a proxy's path, a parameter.
        let end = match rest[..end].find("://") {
            Some(next) => {
                let before = rest[..next].char_indices().rfind(|(_, c)| !own(*c));
                before.map_or(end, |(at, c)| at + c.len_utf8())
            }
            None => end,
        };
        let whole = &rest[..end];
        let authority = &whole[..whole.find(['/', '?', '#', '\\']).unwrap_or(whole.len())];
        let user = authority.rfind('@').map(|at| &authority[..at]);
        let after = user.map_or(whole, |user| &whole[user.len() + 1..]);
        let tail = after.find(['?', '#']).unwrap_or(after.len());
        let mut tails = Vec::new();
        let mut left = &after[tail..];
        if left.starts_with('?') {
            let (query, fragment) = left.split_at(left.find('#').unwrap_or(left.len()));
            tails.push(query);
            left = fragment;
        }
        if !left.is_empty() {
            tails.push(left);
        }
        out.push(Address {
            start,
            end: colon + 3 + end,
            scheme: &line[start..colon],
            user,
            middle: &after[..tail],
            tails,
        });
        from = colon + 3 + end;
    }
    out
}

impl Address<'_> {
    fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.tails.iter().flat_map(|tail| tail[1..].split(['&', ';']));
        all.map(|one| one.split_once('=').unwrap_or((one, "")))
    }

    /// What of it is a credential, and no placeholder of one.
    fn credential(&self) -> Option<What> {
        if let Some(user) = self.user {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            if !password.is_empty() && !placeholder(password) {
                let random = looks_random(&decoded(password)) || token_at(password).is_some();
                return Some(What::Address { part: "a password".into(), random });
            }
            let web = self.scheme.rsplit('+').next().is_some_and(|s| s.starts_with("http"));
            if web && (token_at(name).is_some() || looks_random(name)) {
                return Some(What::Address { part: "a token".into(), random: true });
            }
        }
        let given = |value: &str| value.len() >= 8 && !placeholder(value);
        let found =
            self.parameters().find(|(name, value)| match decoded(name).to_ascii_lowercase().as_str() {
                // What any address may have: only where it looks like one.
                "key" | "code" | "sign" | "auth" => looks_random(value),
                _ => carries(name) && given(value),
            });
        found.map(|(name, value)| What::Address {
            part: format!("a value for `{}`", decoded(name)),
            random: looks_random(&decoded(value)),
        })
    }

    /// Without everything that may be one. An SSH user's name is part of the address, and stays.
    fn clean(&self) -> String {
        let user = self
            .user
            .filter(|_| self.scheme.ends_with("ssh"))
            .map(|user| user.split(':').next().unwrap_or(user));
        let mut out =
            format!("{}://{}{}", self.scheme, user.map(|u| format!("{u}@")).unwrap_or_default(), self.middle);
        for tail in &self.tails {
            let kept: Vec<&str> = tail[1..]
                .split('&')
                .filter(|one| !one.split(';').any(|p| carries(p.split('=').next().unwrap_or(p))))
                .collect();
            if !kept.concat().is_empty() {
                out.push_str(&tail[..1]);
                out.push_str(&kept.join("&"));
            }
        }
        out
    }
}

/// An address without everything that may be a credential: for what is recorded, shown and exported.
pub fn without_credentials(address: &str) -> String {
    redacted(address)
}

/// A text whose addresses have no credentials, and in whose place of known tokens stands `***`.
pub fn redacted(text: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    for address in addresses(text) {
        out.push_str(&text[at..address.start]);
        out.push_str(&address.clean());
        at = address.end;
    }
    out.push_str(&text[at..]);
    let mut done = String::new();
    let mut at = 0;
    for (start, length, _) in tokens(&out) {
        done.push_str(&out[at..start]);
        done.push_str("***");
        at = start + length;
    }
    done + &out[at..]
}

/// Names whose values are credentials.
const NAMES: &[&str] = &["token", "secret", "password", "passwd", "key"];

/// A value that looks random behind such a name: `api_key = "…"`, `"token": "…"`.
fn value(line: &str) -> Option<String> {
    let lower = line.to_ascii_lowercase();
    let found = NAMES.iter().flat_map(|name| lower.match_indices(name).map(|(at, word)| at + word.len()));
    let mut ends: Vec<usize> = found.collect();
    ends.sort_unstable();
    ends.into_iter().find_map(|end| {
        let rest = line[end..].trim_start_matches(['"', '\'', ']', ' ', '\t']);
        let rest = rest.strip_prefix([':', '=']).filter(|rest| !rest.starts_with(['=', ':']))?.trim_start();
        let quoted = rest.strip_prefix(['"', '\''])?;
        let value = &quoted[..quoted.find(['"', '\''])?];
        let own = |b: u8| b.is_ascii_alphanumeric() || b"+/=_-.".contains(&b);
        let identifier = value.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let start = line[..end]
            .rfind(|c| !word(c))
            .map_or(0, |at| at + line[at..].chars().next().map_or(1, char::len_utf8));
        let name = &line[start..end];
        // Hashes and identifiers are keys of tables everywhere.
        let plain = name.eq_ignore_ascii_case("key") && identifier;
        let mixed = value.bytes().any(|b| b.is_ascii_lowercase())
            && (value.bytes().any(|b| b.is_ascii_uppercase()) || identifier);
        (value.len() >= 20 && value.bytes().all(own) && mixed && looks_random(value) && !plain)
            .then(|| name.to_string())
    })
}

fn private_key(text: &str, at: usize) -> bool {
    let Some(rest) = text.get(at..) else { return false };
    let Some(end) = rest.find("PRIVATE KEY").filter(|end| *end < 40) else { return false };
    // The marker alone is what a program looks for.
    let body: String = rest[end..].chars().take(600).collect();
    let mut run = 0;
    body.chars().any(|c| {
        run = if c.is_ascii_alphanumeric() || matches!(c, '+' | '/') { run + 1 } else { 0 };
        run >= 40
    })
}

/// The credentials of a text, at most one a line.
pub fn find(text: &str) -> Vec<Found> {
    let mut out = Vec::new();
    let mut at = 0;
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim_end();
        let key =
            line.find("-----BEGIN").filter(|begin| private_key(text, at + begin)).map(|_| What::PrivateKey);
        let address = || addresses(line).iter().find_map(Address::credential);
        let token = || tokens(line).next().map(|(_, _, whose)| What::Token(whose));
        if let Some(what) = key.or_else(token).or_else(address).or_else(|| value(line).map(What::Value)) {
            out.push(Found { line: number + 1, what });
        }
        at += whole.len();
    }
    out
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
