//! The report: what a capture found that a person should know. Each line has a topic, a stable word that filters and
//! `stillframe explain` know.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    /// Would not survive a deploy.
    Problem,
}

/// One list for the variants, their words and `ALL`, so that none of the three can lack one.
macro_rules! topics {
    ($($(#[$about:meta])* $topic:ident $word:literal)+) => {
        /// What a line of the report is about. In the order of their words: lines of one severity are sorted so. Records
        /// of snapshots have them too: with a new one, `RECORD_VERSION` rises.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Topic {
            $($(#[$about])* #[serde(rename = $word)] $topic,)+
        }

        impl Topic {
            pub const ALL: &[Topic] = &[$(Topic::$topic,)+];

            /// The word in `--json`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Topic::$topic => $word,)+
                }
            }
        }
    };
}

topics! {
    /// What a library needs and the snapshot does not have.
    Audit "audit"
    /// A distribution that no wheel vouches for.
    Captured "captured"
    /// Names that differ only in case.
    Case "case"
    /// Left out on purpose.
    Excluded "excluded"
    /// What git could not tell.
    Git "git"
    /// A distribution that does not import from the snapshot.
    Imports "imports"
    /// The package index was not asked, or did not answer.
    Index "index"
    /// A file beside the environment asks for something else.
    Intent "intent"
    /// An odd file name.
    Name "name"
    /// A path that leads out of the environment.
    Outside "outside"
    /// A text that names the environment's own folder.
    OwnPath "own-path"
    /// A distribution's file is not as it was installed.
    Patched "patched"
    /// What the environment's own server said.
    Probe "probe"
    /// The interpreter and what belongs to it.
    Runtime "runtime"
    /// An entry point without a script, or a script of two.
    Scripts "scripts"
    /// A token, a key, a password: left out.
    Secret "secret"
    /// Neither a file nor a folder nor a link.
    SpecialFile "special-file"
    /// A link that cannot be followed, or must not be.
    Symlink "symlink"
    /// A file that no distribution owns.
    Unowned "unowned"
    /// What could not be read, or not be taken.
    Unreadable "unreadable"
    /// A model weight inside a pack.
    Weights "weights"
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub severity: Severity,
    pub topic: Topic,
    pub path: String,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_sorted_as_their_words_are() {
        assert!(Topic::ALL.is_sorted_by(|a, b| a < b && a.name() < b.name()));
    }
}
