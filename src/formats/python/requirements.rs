//! pip's requirements files in hash-checking mode: `name==version --hash=sha256:…`.
use super::digest::{Sha256Digest, parse_hex};
use super::name;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequirementsError {
    #[error("line {0}: {1:?} is no requirement")]
    Requirement(usize, String),
    #[error("line {0}: {1:?} is no sha256")]
    Hash(usize, String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    pub name: String,
    pub version: String,
    pub marker: Option<String>,
    /// sha256 only; other algorithms state nothing that we check.
    pub sha256: Vec<Sha256Digest>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    pub pinned: Vec<Pinned>,
    /// Requirements that pin nothing (ranges, URLs): they state no intent that can be checked.
    pub unpinned: Vec<String>,
    /// Options such as `--index-url …` or `-r other.txt`.
    pub options: Vec<String>,
}

impl Requirements {
    pub fn parse(text: &str) -> Result<Self, RequirementsError> {
        let mut out = Requirements::default();
        for (number, line) in logical_lines(text) {
            if line.starts_with('-') {
                out.options.push(line);
                continue;
            }
            let (requirement, hashes) = split_hashes(&line);
            let mut sha256 = Vec::new();
            for hash in hashes {
                match hash.split_once(':') {
                    Some(("sha256", hex)) => {
                        sha256.push(parse_hex(hex).ok_or(RequirementsError::Hash(number, hash.clone()))?)
                    }
                    Some(_) => {}
                    None => return Err(RequirementsError::Hash(number, hash)),
                }
            }
            let (body, marker) = match requirement.split_once(';') {
                Some((body, marker)) => (body.trim(), Some(marker.trim().to_owned())),
                None => (requirement.trim(), None),
            };
            let end = body
                .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'))
                .unwrap_or(body.len());
            let (project, rest) = body.split_at(end);
            // A URL or a path is a requirement too, of a kind that pins no version.
            if body.contains("://") || body.contains('/') {
                out.unpinned.push(body.to_owned());
                continue;
            }
            if !name::is_valid(project) {
                return Err(RequirementsError::Requirement(number, body.to_owned()));
            }
            let mut rest = rest.trim_start();
            if let Some(extras) = rest.strip_prefix('[') {
                rest = extras
                    .split_once(']')
                    .ok_or_else(|| RequirementsError::Requirement(number, body.to_owned()))?
                    .1
                    .trim_start();
            }
            match rest.trim_start_matches('=') {
                version if rest.starts_with("==") && is_exact(version) => out.pinned.push(Pinned {
                    name: project.to_owned(),
                    version: version.trim().to_owned(),
                    marker,
                    sha256,
                }),
                _ => out.unpinned.push(body.to_owned()),
            }
        }
        Ok(out)
    }
}

fn is_exact(version: &str) -> bool {
    !version.trim().is_empty() && !version.contains(['*', ',', '<', '>'])
}

/// Joins lines ending in a backslash, drops comments and blanks; numbered by their first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let line = match line.find(" #") {
            _ if line.trim_start().starts_with('#') => "",
            Some(at) => &line[..at],
            None => line,
        };
        let (body, continues) = match line.trim_end().strip_suffix('\\') {
            Some(body) => (body.trim(), true),
            None => (line.trim(), false),
        };
        match out.last_mut() {
            Some((_, last)) if open => {
                last.push(' ');
                last.push_str(body);
            }
            _ => out.push((index + 1, body.to_owned())),
        }
        open = continues;
    }
    out.retain(|(_, line)| !line.trim().is_empty());
    out
}

/// Splits per-requirement options off: `--hash=alg:hex` or `--hash alg:hex`.
fn split_hashes(line: &str) -> (String, Vec<String>) {
    let Some(at) = line.find(" --") else {
        return (line.to_owned(), Vec::new());
    };
    let mut words = line[at..].split_whitespace();
    let mut hashes = Vec::new();
    while let Some(word) = words.next() {
        if let Some(hash) = word.strip_prefix("--hash=") {
            hashes.push(hash.to_owned());
        } else if word == "--hash"
            && let Some(hash) = words.next()
        {
            hashes.push(hash.to_owned());
        }
    }
    (line[..at].to_owned(), hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_compile_output() {
        let a = "ab".repeat(32);
        let text = format!(
            "# made by pip-compile\n--index-url https://index.example/simple\n\nnumpy==1.26.4 ; python_version >= \"3.9\" \\\n    --hash=sha256:{a} \\\n    --hash=sha512:00\n    # via scipy\nuvicorn[standard]==0.30.0  # why\nscipy>=1.10\nmine @ https://git.example/a.zip\ntorch==2.*\n"
        );
        let r = Requirements::parse(&text).unwrap();
        assert_eq!(r.pinned.len(), 2);
        assert_eq!(r.pinned[0].sha256, [[0xab; 32]]);
        assert_eq!(r.pinned[0].marker.as_deref(), Some("python_version >= \"3.9\""));
        assert_eq!((r.pinned[1].name.as_str(), r.pinned[1].version.as_str()), ("uvicorn", "0.30.0"));
        assert_eq!(r.unpinned, ["scipy>=1.10", "mine @ https://git.example/a.zip", "torch==2.*"]);
        assert_eq!(r.options, ["--index-url https://index.example/simple"]);
    }

    #[test]
    fn errors() {
        let text = |s: &str| Requirements::parse(s).unwrap_err().to_string();
        assert_eq!(text("\n!!\n"), "line 2: \"!!\" is no requirement");
        assert_eq!(text("a[b==1\n"), "line 1: \"a[b==1\" is no requirement");
        assert_eq!(text("a==1 --hash=sha256:12"), "line 1: \"sha256:12\" is no sha256");
    }
}
