//! Names of files inside a wheel. A hostile wheel must not be able to name a file outside its own
//! tree, so every name from an archive or a RECORD passes here first.

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberNameError {
    #[error("is empty")]
    Empty,
    #[error("holds a NUL byte")]
    Nul,
    #[error("holds a backslash")]
    Backslash,
    #[error("is absolute")]
    Absolute,
    #[error("holds a \"..\" component")]
    Parent,
    #[error("holds an empty or \".\" component")]
    NotCanonical,
}

/// Accepts only relative, canonical, slash-separated names.
pub fn check(name: &str) -> Result<(), MemberNameError> {
    if name.is_empty() {
        return Err(MemberNameError::Empty);
    }
    if name.contains('\0') {
        return Err(MemberNameError::Nul);
    }
    if name.contains('\\') {
        return Err(MemberNameError::Backslash);
    }
    if name.starts_with('/') {
        return Err(MemberNameError::Absolute);
    }
    for component in name.split('/') {
        match component {
            ".." => return Err(MemberNameError::Parent),
            "" | "." => return Err(MemberNameError::NotCanonical),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(check("numpy/core/__init__.py"), Ok(()));
        assert_eq!(check("a..b/c"), Ok(()));
        assert_eq!(check(""), Err(MemberNameError::Empty));
        assert_eq!(check("a\0b"), Err(MemberNameError::Nul));
        assert_eq!(check("a\\b"), Err(MemberNameError::Backslash));
        assert_eq!(check("/etc/passwd"), Err(MemberNameError::Absolute));
        assert_eq!(check("a/../b"), Err(MemberNameError::Parent));
        assert_eq!(check("a//b"), Err(MemberNameError::NotCanonical));
        assert_eq!(check("./a"), Err(MemberNameError::NotCanonical));
        assert_eq!(check("a/"), Err(MemberNameError::NotCanonical));
    }
}
