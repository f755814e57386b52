//! Distribution names, PEP 503 and PEP 508.

/// PEP 503: runs of `-`, `_` and `.` become one `-`, letters lower case.
pub fn normalize(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut separator = false;
    for c in name.chars() {
        if matches!(c, '-' | '_' | '.') {
            separator = true;
            continue;
        }
        if std::mem::take(&mut separator) {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    if separator {
        out.push('-');
    }
    out
}

/// PEP 508: ASCII letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit.
pub fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() && bytes.iter().all(inner)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pep_503_examples() {
        for name in ["friendly-bard", "Friendly-Bard", "FRIENDLY.BARD", "friendly--_.bard"] {
            assert_eq!(normalize(name), "friendly-bard");
        }
        assert_eq!(normalize("ruamel.yaml.clib"), "ruamel-yaml-clib");
    }

    #[test]
    fn validity() {
        assert!(is_valid("opencv-contrib_python.headless"));
        assert!(is_valid("a"));
        for bad in ["", "-a", "a-", "a b", "é", "../a", "a/b"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
