//! Files that Git LFS has yet to bring: what lies in their place is a pointer, a short text that names the content
//! (git-lfs-spec, "The Pointer"). Whoever loads such a file as a model or a picture fails, so each is named.
use crate::capture::files::paths::{below, finding, read_small, show_in};
use crate::capture::files::walk::WalkEntry;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::words::show;
use std::collections::BTreeMap;
use std::path::Path;

/// A pointer has a version, a hash and a size, and fewer bytes than the specification's limit.
const SIZES: std::ops::Range<u64> = 100..1024;
/// Python's sources are in no LFS, and most of a pack's small files.
const SOURCES: [&[u8]; 2] = [b".py", b".pyi"];
/// At most so many are named.
const NAMED: usize = 3;

pub fn is_pointer(real: &Path, path: &[u8], entry: &WalkEntry) -> bool {
    if !SIZES.contains(&entry.size) || SOURCES.iter().any(|end| path.ends_with(end)) {
        return false;
    }
    read_small(real, SIZES.end).is_some_and(|content| is_text_of_pointer(&content))
}

fn is_text_of_pointer(content: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(content) else { return false };
    let mut lines = text.lines();
    let key = |line: &str, key: &str| line.starts_with(key);
    lines.next() == Some("version https://git-lfs.github.com/spec/v1")
        && lines.clone().any(|line| key(line, "oid sha256:"))
        && lines.any(|line| key(line, "size "))
}

/// A line of the report for each repository of a collected folder that has some; `pointers` are in order.
pub fn findings(root: &Path, label: &str, repositories: &[Vec<u8>], pointers: &[Vec<u8>]) -> Vec<Finding> {
    let mut by_repository: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    for path in pointers {
        let inside =
            |at: &&Vec<u8>| path.strip_prefix(at.as_slice()).is_some_and(|rest| rest.starts_with(b"/"));
        let deepest = repositories.iter().filter(inside).max_by_key(|at| at.len());
        by_repository.entry(deepest.map_or(b"", |at| at.as_slice())).or_default().push(path);
    }
    let line = |(at, paths): (&[u8], Vec<&[u8]>)| {
        let place = below(root, at);
        let place_shown = show(std::os::unix::ffi::OsStrExt::as_bytes(place.as_os_str()));
        let mut named = paths.iter().take(NAMED).map(|path| show(path)).collect::<Vec<_>>().join(", ");
        if paths.len() > NAMED {
            named.push_str(", …");
        }
        let what = match paths.len() {
            1 => "1 file that ships is a Git LFS pointer".to_string(),
            count => format!("{count} files that ship are Git LFS pointers"),
        };
        let advice = match place.join(".git").exists() {
            true => format!("run `git lfs pull` in {place_shown}"),
            false => {
                format!("{place_shown} is no repository: get their content from where it was downloaded")
            }
        };
        let shown = if at.is_empty() { label.to_string() } else { show_in(label, at) };
        let message = format!("{what} and not the content ({named}): {advice}");
        finding(Severity::Warning, Topic::Git, shown, message)
    };
    by_repository.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_a_whole_file() {
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n",
            "ab".repeat(32)
        );
        assert!(is_text_of_pointer(pointer.as_bytes()));
        assert!(is_text_of_pointer(pointer.replace('\n', "\r\n").as_bytes()));
        assert!(!is_text_of_pointer(format!("# how pointers look\n{pointer}").as_bytes()));
        assert!(!is_text_of_pointer(b"version https://git-lfs.github.com/spec/v1\n"));
    }

    #[test]
    fn each_repository_has_a_line() {
        let repositories = [b"sub".to_vec()];
        let pointers = [&b"a.png"[..], b"b.png", b"c.png", b"d.png", b"sub/x.onnx"].map(<[u8]>::to_vec);
        let found = findings(Path::new("/nonexistent/p"), "custom_nodes/p", &repositories, &pointers);
        let said: Vec<String> = found.iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        assert_eq!(
            said,
            [
                "custom_nodes/p: 4 files that ship are Git LFS pointers and not the content (a.png, b.png, c.png, …): \
                 /nonexistent/p is no repository: get their content from where it was downloaded",
                "custom_nodes/p/sub: 1 file that ships is a Git LFS pointer and not the content (sub/x.onnx): \
                 /nonexistent/p/sub is no repository: get their content from where it was downloaded",
            ]
        );
    }
}
