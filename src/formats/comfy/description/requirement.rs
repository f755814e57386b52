//! One line of a requirements file: whether an installer on another machine gets from it what the line means (PEP 508, and
//! pip's "Requirements File Format" for what that leaves out), and which package it is about.
use crate::formats::python::name::normalize;

/// A requirement in its parts; `text` is the whole line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Normalised. A bare address has none.
    pub name: Option<String>,
    /// With its brackets, or empty.
    pub extras: String,
    pub marker: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    Nothing,
    Taken(Requirement),
    /// The package, where the line tells, and why the line is not enough.
    Lacks(Option<String>, &'static str),
}

const ELSEWHERE: &str = "it is on another machine";
const NO_COMMIT: &str = "no commit is named";

/// A whole object id of git.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Judged {
    /// The package that it is about.
    pub fn name(&self) -> Option<&String> {
        match self {
            Judged::Taken(requirement) => requirement.name.as_ref(),
            Judged::Lacks(name, _) => name.as_ref(),
            Judged::Nothing => None,
        }
    }
}

/// The package that a line is about.
pub fn name_of(line: &str) -> Option<String> {
    judge(line, false).name().cloned()
}

/// `exact`: the line is of a list of what was installed, and must name one version or one address.
pub fn judge(line: &str, exact: bool) -> Judged {
    let line = line.split(" #").next().unwrap_or_default().trim();
    if line.is_empty() || line.starts_with('#') {
        return Judged::Nothing;
    }
    // To pip the rest would be lines of their own: options, too.
    if line.contains(['\n', '\r']) {
        return Judged::Lacks(None, "it is more than one line");
    }
    // pip puts variables of the environment in: a line of somebody else's would send ours to an address.
    if line.contains("${") {
        return Judged::Lacks(None, "it wants a variable of the environment");
    }
    if let Some(target) = editable(line) {
        return editable_at(line, target);
    }
    if line.starts_with('-') {
        return Judged::Lacks(None, "an option of an installer");
    }
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let named =
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !begins_path(line) && !is_address(line);
    if !named {
        return bare(line);
    }
    let name = Some(normalize(name));
    let rest = rest.trim_start();
    let (extras, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((extras, rest)) => (format!("[{extras}]"), rest.trim_start()),
        None => (String::new(), rest),
    };
    if let Some(address) = rest.strip_prefix('@') {
        // A marker stands behind a space there: an address may hold a semicolon.
        let (address, marker) = split(address.trim(), " ;");
        return match lacks(address) {
            Some(why) => Judged::Lacks(name, why),
            None => Judged::Taken(Requirement { name, extras, marker, text: line.into() }),
        };
    }
    let (specifier, marker) = split(rest, ";");
    let specifier = specifier.split(" --").next().unwrap_or_default().trim();
    let specifier = specifier.strip_prefix('(').and_then(|s| s.strip_suffix(')')).unwrap_or(specifier);
    let operator = specifier.is_empty() || specifier.starts_with(['=', '<', '>', '!', '~']);
    if !operator || specifier.contains(['@', '/', '\\']) {
        // `a==1 @ git+file:///x` too: none of the standards has it.
        return Judged::Lacks(name, if is_path(line) { ELSEWHERE } else { "no requirement" });
    }
    if exact && !pins(specifier) {
        return Judged::Lacks(name, "no version is named");
    }
    Judged::Taken(Requirement { name, extras, marker, text: line.into() })
}

/// Whether a requirement names a build that only some index has: PEP 440 keeps local versions out of public ones.
pub fn local_version(line: &str) -> Option<&str> {
    let (_, version) = line.split_once("==")?;
    let version = version.split([';', ' ', ',']).next().unwrap_or_default();
    version.split_once('+').map(|(_, local)| local)
}

fn split<'a>(text: &'a str, at: &str) -> (&'a str, Option<String>) {
    match text.split_once(at) {
        Some((before, marker)) => (before.trim(), Some(marker.trim().to_string())),
        None => (text, None),
    }
}

fn pins(specifier: &str) -> bool {
    let version = specifier.strip_prefix("===").or_else(|| specifier.strip_prefix("=="));
    version.is_some_and(|v| !v.trim().is_empty() && !v.contains(['*', ',', '<', '>', '!', '~', '=']))
}

/// What `-e` and its long forms name.
fn editable(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("--editable").or_else(|| line.strip_prefix("-e"))?;
    Some(rest.strip_prefix('=').unwrap_or(rest).trim())
}

fn editable_at(line: &str, target: &str) -> Judged {
    let (before, address) = match target.split_once(" @ ") {
        Some((name, address)) => (Some(name.trim()), address.trim()),
        None => (None, target),
    };
    let egg = address.split_once('#').and_then(|(_, fragment)| {
        fragment.split('&').find_map(|part| part.strip_prefix("egg=")).map(|egg| egg.split('[').next())
    });
    let name = before.or(egg.flatten()).map(normalize);
    if !address.starts_with("git+") {
        return Judged::Lacks(name, ELSEWHERE);
    }
    match lacks(address) {
        Some(why) => Judged::Lacks(name, why),
        None => {
            let text = line.to_string();
            Judged::Taken(Requirement { name, extras: String::new(), marker: None, text })
        }
    }
}

/// An address or a path without a name before it.
fn bare(line: &str) -> Judged {
    let (address, marker) = split(line, " ;");
    let wheel = || {
        let file = address.split(['?', '#']).next()?.rsplit(['/', '\\']).next()?;
        file.ends_with(".whl").then(|| normalize(file.split('-').next().unwrap_or_default()))
    };
    let egg = address
        .split_once("#egg=")
        .map(|(_, egg)| normalize(egg.split(['&', '[']).next().unwrap_or_default()));
    let name = egg.or_else(wheel);
    if is_path(address) {
        return Judged::Lacks(name, ELSEWHERE);
    }
    match lacks(address) {
        Some(why) => Judged::Lacks(name, why),
        None => Judged::Taken(Requirement { name, extras: String::new(), marker, text: line.into() }),
    }
}

fn is_address(text: &str) -> bool {
    let scheme = text.split_once("://").or_else(|| text.split_once(':')).map_or("", |(scheme, _)| scheme);
    !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Of this machine's kind, or of Windows: `C:\x`, `C:/x`, `\\server\share`, `.\x`.
fn begins_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    let drive = bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'\\' | b'/')
        && !text.contains("://");
    drive || text.starts_with(['/', '.', '~', '\\'])
}

fn is_path(text: &str) -> bool {
    begins_path(text) || text.contains("file:")
}

/// Why an address does not give one thing for ever.
fn lacks(address: &str) -> Option<&'static str> {
    if is_path(address) {
        return Some(ELSEWHERE);
    }
    if let Some(repository) = address.strip_prefix("git+") {
        let before = repository.split(['#', '?']).next().unwrap_or_default();
        // The host's own `user@` comes before a slash.
        let path = before.split_once("://").map_or("", |(_, rest)| rest);
        let at = path.split_once('/').and_then(|(_, path)| path.rsplit_once('@'));
        return at.is_none_or(|(_, commit)| !is_commit(commit)).then_some(NO_COMMIT);
    }
    match address.split_once("://") {
        Some(("https" | "http", rest)) if !rest.is_empty() => None,
        _ => Some("no address that can be fetched"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "27870ec3c30e56be9707d89a120eb7f0e2836be1";

    fn name(line: &str) -> Option<String> {
        match judge(line, true) {
            Judged::Taken(r) => r.name,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_names_one_thing_is_taken_as_it_is() {
        for (line, wanted) in [
            ("numpy==1.26.4", "numpy"),
            ("Torch_Audio[x]===2.4.1+cu121", "torch-audio"),
            ("a (==1)", "a"),
            ("a==1 ; python_version < '3.9'", "a"),
            ("a==1 --hash=sha256:00", "a"),
            ("a @ https://files.example/a.whl", "a"),
            ("a[b]@https://files.example/a-1.tar.gz ; sys_platform == 'linux'", "a"),
            (&format!("a @ git+https://git.example/a.git@{A}#subdirectory=x"), "a"),
            (&format!("a @ git+ssh://git@git.example/a@{A}"), "a"),
            (&format!("-e git+https://git.example/a@{A}#egg=a.b&subdirectory=c"), "a-b"),
            (&format!("--editable=a @ git+https://git.example/a@{A}"), "a"),
            ("https://files.example/My.Pack-1-py3-none-any.whl?x#sha256=0", "my-pack"),
        ] {
            assert_eq!(name(line).as_deref(), Some(wanted), "{line}");
        }
        assert_eq!(name(&format!("git+https://git.example/a@{A}")), None);
    }

    #[test]
    fn what_does_not_is_said_with_the_package_that_lacks() {
        for (line, package, why) in [
            ("numpy", Some("numpy"), "no version is named"),
            ("numpy>=1", Some("numpy"), "no version is named"),
            ("numpy==1.*", Some("numpy"), "no version is named"),
            ("numpy==1,<2", Some("numpy"), "no version is named"),
            ("a @ git+https://git.example/a@main", Some("a"), NO_COMMIT),
            ("a @ git+https://user@git.example/a", Some("a"), NO_COMMIT),
            (&format!("a @ git+https://{A}@git.example/a"), Some("a"), NO_COMMIT),
            ("-e git+https://git.example/a#egg=a", Some("a"), NO_COMMIT),
            ("a @ file:///home/x/a", Some("a"), ELSEWHERE),
            ("a @ file:///C:/Users/x/a", Some("a"), ELSEWHERE),
            (r"a @ C:\Users\x\a.whl", Some("a"), ELSEWHERE),
            (r"C:\Users\x\b_c-1-py3-none-any.whl", Some("b-c"), ELSEWHERE),
            (r"\\server\share\a", None, ELSEWHERE),
            (r"-e c:\work\a", None, ELSEWHERE),
            ("-e /srv/a", None, ELSEWHERE),
            ("../a", None, ELSEWHERE),
            ("at==1 @ git+file:///x", Some("at"), ELSEWHERE),
            ("a @ hg+https://hg.example/a@1", Some("a"), "no address that can be fetched"),
            ("a @ s3://bucket/a.whl", Some("a"), "no address that can be fetched"),
            ("--index-url https://index.example", None, "an option of an installer"),
            ("-r other.txt", None, "an option of an installer"),
            ("a @ https://evil.example/${HF_TOKEN}", None, "it wants a variable of the environment"),
            ("two words", Some("two"), "no requirement"),
            ("!", None, "no address that can be fetched"),
        ] {
            assert_eq!(judge(line, true), Judged::Lacks(package.map(String::from), why), "{line}");
        }
    }

    #[test]
    fn ranges_are_wishes() {
        assert!(matches!(judge("pillow>=10,<12", false), Judged::Taken(_)));
        assert!(matches!(judge("torch", false), Judged::Taken(_)));
    }

    #[test]
    fn local_versions() {
        assert_eq!(local_version("torch==2.4.1+cu121 ; x"), Some("cu121"));
        assert_eq!(local_version("torch==2.4.1"), None);
        assert_eq!(local_version("a @ https://files.example/a+b.whl"), None);
    }
}
