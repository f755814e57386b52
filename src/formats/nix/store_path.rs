//! Store paths and how Nix computes them ("Complete Store Path Calculation" in the Nix manual): a
//! fingerprint `TYPE:sha256:HASH:STOREDIR:NAME`, hashed, folded to 160 bits, in base-32.
use super::base32;
use super::hash::{Sha256, compress};
use std::collections::BTreeSet;
use std::fmt;

/// The store directory is a value: tests have stores of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDir(pub String);

impl Default for StoreDir {
    fn default() -> Self {
        StoreDir("/nix/store".into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    #[error("{0:?} is not a valid store path name")]
    Name(String),
    #[error("{0:?} does not start with a store path hash")]
    Hash(String),
    #[error("{0:?} is not below the store directory {1}")]
    Outside(String, String),
}

/// How the content of a fixed output is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Flat,
    /// Over the NAR serialisation.
    Recursive,
}

const MAX_NAME: usize = 211;

fn valid_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+-._?=".contains(c)
}

/// The name part of a store path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePathName(String);

impl StorePathName {
    pub fn new(text: &str) -> Result<Self, StorePathError> {
        let dots = |t: &str| t == "." || t == ".." || t.starts_with(".-") || t.starts_with("..-");
        if text.is_empty()
            || text.len() > MAX_NAME
            || !text.chars().all(valid_char)
            || dots(text)
            || text.starts_with('.')
        {
            return Err(StorePathError::Name(text.into()));
        }
        Ok(StorePathName(text.into()))
    }

    /// A valid name out of any text, and with `.drv` of its derivation: other characters become `_`, as nixpkgs'
    /// sanitiser does with `-`.
    pub fn sanitize(text: &str) -> Self {
        const MAX: usize = MAX_NAME - ".drv".len();
        let clean: String = text.chars().map(|c| if valid_char(c) { c } else { '_' }).take(MAX).collect();
        let clean = clean.trim_start_matches('.');
        StorePathName(if clean.is_empty() { "unnamed".into() } else { clean.into() })
    }
}

impl fmt::Display for StorePathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A store path without its directory: Nix sorts and compares them by this text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath(String);

impl StorePath {
    pub fn from_base_name(text: &str) -> Result<Self, StorePathError> {
        let hash = || StorePathError::Hash(text.into());
        let (digest, name) = text.split_at_checked(32).ok_or_else(hash)?;
        base32::decode(digest, 20).ok_or_else(hash)?;
        StorePathName::new(name.strip_prefix('-').ok_or_else(hash)?)?;
        Ok(StorePath(text.into()))
    }

    pub fn from_absolute(store: &StoreDir, text: &str) -> Result<Self, StorePathError> {
        let outside = || StorePathError::Outside(text.into(), store.0.clone());
        let rest = text.strip_prefix(&store.0).and_then(|r| r.strip_prefix('/')).ok_or_else(outside)?;
        Self::from_base_name(rest)
    }

    pub fn to_absolute(&self, store: &StoreDir) -> String {
        format!("{}/{}", store.0, self.0)
    }

    /// The 32 characters before the name.
    pub fn digest(&self) -> &str {
        &self.0[..32]
    }

    pub fn name(&self) -> &str {
        &self.0[33..]
    }

    pub fn is_derivation(&self) -> bool {
        self.0.ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn make(store: &StoreDir, kind: &str, inner: &Sha256, name: &str) -> Result<StorePath, StorePathError> {
    let name = StorePathName::new(name)?;
    let fingerprint = format!("{kind}:sha256:{}:{}:{name}", inner.to_hex(), store.0);
    let digest = compress(&Sha256::of(fingerprint).0);
    Ok(StorePath(format!("{}-{name}", base32::encode(&digest))))
}

fn kind_with(kind: &str, store: &StoreDir, references: &BTreeSet<StorePath>) -> String {
    references.iter().fold(kind.to_string(), |all, path| format!("{all}:{}", path.to_absolute(store)))
}

/// A content-addressed tree (`nix-store --add`), with the store paths its content names.
pub fn source_path(
    store: &StoreDir,
    name: &str,
    nar: &Sha256,
    references: &BTreeSet<StorePath>,
) -> Result<StorePath, StorePathError> {
    make(store, &kind_with("source", store, references), nar, name)
}

/// A text file in the store, as `.drv` files are.
pub fn text_path(
    store: &StoreDir,
    name: &str,
    text: &[u8],
    references: &BTreeSet<StorePath>,
) -> Result<StorePath, StorePathError> {
    make(store, &kind_with("text", store, references), &Sha256::of(text), name)
}

/// The output of a fixed-output derivation; a recursive one is where the same tree would be added.
pub fn fixed_output_path(
    store: &StoreDir,
    name: &str,
    mode: Mode,
    hash: &Sha256,
) -> Result<StorePath, StorePathError> {
    match mode {
        Mode::Recursive => source_path(store, name, hash, &BTreeSet::new()),
        Mode::Flat => {
            let inner = Sha256::of(format!("fixed:out:sha256:{}:", hash.to_hex()));
            make(store, "output:out", &inner, name)
        }
    }
}

/// An output of an input-addressed derivation.
pub fn output_path(
    store: &StoreDir,
    output: &str,
    modulo: &Sha256,
    name: &str,
) -> Result<StorePath, StorePathError> {
    let name = if output == "out" { name.to_string() } else { format!("{name}-{output}") };
    make(store, &format!("output:{output}"), modulo, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_checked() {
        for bad in ["", ".", "..", "a b", "ä", &"x".repeat(212)] {
            assert_eq!(StorePathName::new(bad).unwrap_err(), StorePathError::Name(bad.into()));
        }
        assert_eq!(StorePathName::sanitize(".a b!").to_string(), "a_b_");
        let long = StorePathName::sanitize(&"x".repeat(250));
        assert!(StorePathName::new(&format!("{long}.drv")).is_ok());
        assert!(StorePathName::new(&format!("{long}x.drv")).is_err());
        let store = StoreDir::default();
        let text = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x";
        assert_eq!(StorePath::from_absolute(&store, text).unwrap().to_absolute(&store), text);
        assert_eq!(
            StorePath::from_absolute(&store, "/tmp/x").unwrap_err().to_string(),
            "\"/tmp/x\" is not below the store directory /nix/store"
        );
    }
}
