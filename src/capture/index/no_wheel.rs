//! Why there is no wheel for a distribution: the reason that the lock and the report give for *captured*.
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoWheel {
    #[error("no index was asked (--offline)")]
    Offline,
    #[error("no package index to ask ({source_of})")]
    NoIndex {
        /// Whose settings name none.
        source_of: String,
    },
    #[error("the dist-info of {name} {version} names no wheel tags")]
    NoTags { name: String, version: String },
    #[error("{0}")]
    Installed(Elsewhere),
    #[error("the index has no wheel {name} {version} for tags {tags} (built from an sdist?)")]
    NotThere { name: String, version: String, tags: String },
    #[error("the index gives no sha256 for {file}")]
    NoHash { file: String },
    #[error("the index could not be reached: {why}")]
    Unreachable { why: String },
    #[error("the index's answer for {project} is unusable: {why}")]
    Unusable { project: String, why: String },
    #[error("{0}")]
    Listing(ListingError),
    #[error("the look-up was interrupted")]
    Interrupted,
}

/// Installed from where no index can vouch for it, as its direct_url.json says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Elsewhere {
    #[error("installed from {vcs} {url} at commit {commit}")]
    Repository { vcs: String, url: String, commit: String },
    #[error("editable install of {path}")]
    Editable { path: String },
    #[error("installed from the local directory {path}")]
    Directory { path: String },
    #[error("installed from a local archive, {path}")]
    Archive { path: String },
    #[error("installed from {url}, which is no wheel")]
    NoWheel { url: String },
    #[error("installed from {url}, which is not {name} {version}")]
    Another { url: String, name: String, version: String },
    #[error("installed from {url}, whose sha256 was not recorded")]
    NoHash { url: String },
}

/// Why what a wheel holds could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ListingError {
    #[error("the wheel {wheel} could not be reached: {why}")]
    Unreachable { wheel: String, why: String },
    /// The server or the wheel is not as the standards have it, in words.
    #[error("{0}")]
    Wrong(String),
}

impl From<String> for ListingError {
    fn from(words: String) -> Self {
        ListingError::Wrong(words)
    }
}

impl From<ListingError> for NoWheel {
    fn from(error: ListingError) -> Self {
        NoWheel::Listing(error)
    }
}

impl From<Elsewhere> for NoWheel {
    fn from(elsewhere: Elsewhere) -> Self {
        NoWheel::Installed(elsewhere)
    }
}

impl NoWheel {
    /// Whether the same question would be answered so again. What a server said wrongly, it may say rightly the next
    /// time.
    pub fn lasting(&self) -> bool {
        match self {
            NoWheel::Offline
            | NoWheel::NoIndex { .. }
            | NoWheel::NoTags { .. }
            | NoWheel::Installed(_)
            | NoWheel::NotThere { .. } => true,
            NoWheel::NoHash { .. }
            | NoWheel::Unreachable { .. }
            | NoWheel::Unusable { .. }
            | NoWheel::Listing(_)
            | NoWheel::Interrupted => false,
        }
    }

    /// Whether somebody who should have been asked did not answer: there may be a wheel.
    pub fn unreachable(&self) -> bool {
        matches!(self, NoWheel::Unreachable { .. } | NoWheel::Listing(ListingError::Unreachable { .. }))
    }
}
