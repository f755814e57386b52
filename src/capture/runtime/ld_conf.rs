//! Where ld.so looks when no object says where: its configuration, then its built-in directories.
use std::path::{Path, PathBuf};

/// The directories of `etc/ld.so.conf` under `root`, then those built into ld.so.
pub fn system_directories(root: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    read_conf(root, &root.join("etc/ld.so.conf"), 0, &mut dirs);
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    for dir in ["lib", "usr/lib"] {
        dirs.push(root.join(dir).join(&multiarch));
    }
    dirs.extend(["lib64", "usr/lib64", "lib", "usr/lib"].map(|d| root.join(d)));
    let mut seen = std::collections::HashSet::new();
    dirs.retain(|d| seen.insert(d.clone()));
    dirs
}

fn read_conf(root: &Path, file: &Path, depth: u8, dirs: &mut Vec<PathBuf>) {
    // No configuration is a configuration; a file that includes itself is not followed forever.
    let Ok(text) = std::fs::read_to_string(file) else {
        return;
    };
    if depth > 8 {
        return;
    }
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        match words.next() {
            None | Some("hwcap") => {}
            Some("include") => {
                for pattern in words {
                    let base = file.parent().unwrap_or(root);
                    let pattern = match pattern.strip_prefix('/') {
                        Some(absolute) => root.join(absolute),
                        None => base.join(pattern),
                    };
                    for included in glob(&pattern) {
                        read_conf(root, &included, depth + 1, dirs);
                    }
                }
            }
            Some(_) => {
                for dir in line.split([':', ',', ' ', '\t']).filter(|d| d.starts_with('/')) {
                    let dir = dir.split('=').next().unwrap_or_default();
                    dirs.push(root.join(dir.trim_start_matches('/')));
                }
            }
        }
    }
}

/// Files whose name matches the pattern's last component, in order of name.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy().into_owned();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| e.ok())
        .filter(|e| matches(name.as_bytes(), e.file_name().as_encoded_bytes()))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            matches(rest, name) || name.split_first().is_some_and(|(_, n)| matches(pattern, n))
        }
        (Some((b'?', rest)), Some((_, n))) => matches(rest, n),
        (Some((p, rest)), Some((c, n))) if p == c => matches(rest, n),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_read_with_its_includes() {
        let root = tempfile::tempdir().expect("temp dir");
        let etc = root.path().join("etc");
        std::fs::create_dir_all(etc.join("ld.so.conf.d")).expect("mkdir");
        let write = |name: &str, text: &str| std::fs::write(etc.join(name), text).expect("write");
        write("ld.so.conf", "include ld.so.conf.d/*.conf\n/late # why\ninclude /etc/ld.so.conf\n");
        write("ld.so.conf.d/b.conf", "/b\n");
        write("ld.so.conf.d/a.conf", "hwcap 1 nosegneg\n/a\n\n");
        write("ld.so.conf.d/c.off", "/c\n");
        let dirs = system_directories(root.path());
        let expected: Vec<PathBuf> = ["a", "b", "late"].iter().map(|d| root.path().join(d)).collect();
        assert_eq!(dirs[..3], expected);
        assert!(dirs.contains(&root.path().join("usr/lib")));
        assert!(!dirs.contains(&root.path().join("c")));
    }
}
