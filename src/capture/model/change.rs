//! How a file of a distribution differs from what its wheel holds, or from what was installed. In the lock, in
//! records and in `--json` it is one sentence, which is read back as what it was.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChange {
    pub path: String,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
pub enum How {
    /// Its content is another one, which ships.
    Changed,
    Missing,
    /// The file of this other distribution lies there, and ships with that one.
    ReplacedBy(String),
    /// It does not ship.
    LeftOut(Unfit),
    /// It does not ship: a secret of this kind.
    Secret(String),
    /// A sentence that only a later version of stillframe knows.
    Other(String),
}

/// Why a file cannot ship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It cannot be read, for this reason.
    Unreadable(String),
    /// A folder, a FIFO, a device.
    NoFile,
    /// A link leads to this path, which is no part of the environment.
    Outside(String),
    /// It would lie where the environment's own interpreter does.
    Displaces,
}

impl FileChange {
    /// The distribution whose file lies there.
    pub fn replaced_by(&self) -> Option<&str> {
        match &self.how {
            How::ReplacedBy(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Changed => f.write_str("changed"),
            How::Missing => f.write_str("missing"),
            How::ReplacedBy(name) => write!(f, "replaced by {name}"),
            How::LeftOut(unfit) => write!(f, "left out: {unfit}"),
            How::Secret(what) => write!(f, "left out, a secret: {what}"),
            How::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Unreadable(reason) => write!(f, "cannot be read ({reason})"),
            Unfit::NoFile => f.write_str("not a regular file"),
            Unfit::Outside(to) => {
                write!(f, "leads to {to}, outside the environment; put a copy in its place")
            }
            Unfit::Displaces => f.write_str("it would take the interpreter's place"),
        }
    }
}

fn between(text: &str, before: &str, behind: &str) -> Option<String> {
    Some(text.strip_prefix(before)?.strip_suffix(behind)?.to_string())
}

impl Unfit {
    fn read(text: &str) -> Option<Unfit> {
        match text {
            "not a regular file" => Some(Unfit::NoFile),
            "it would take the interpreter's place" => Some(Unfit::Displaces),
            _ => between(text, "cannot be read (", ")").map(Unfit::Unreadable).or_else(|| {
                let behind = ", outside the environment; put a copy in its place";
                between(text, "leads to ", behind).map(Unfit::Outside)
            }),
        }
    }
}

impl From<String> for How {
    fn from(text: String) -> How {
        let known = match text.as_str() {
            "changed" => Some(How::Changed),
            "missing" => Some(How::Missing),
            _ => between(&text, "replaced by ", "")
                .map(How::ReplacedBy)
                .or_else(|| between(&text, "left out, a secret: ", "").map(How::Secret))
                .or_else(|| Unfit::read(text.strip_prefix("left out: ")?).map(How::LeftOut)),
        };
        known.unwrap_or(How::Other(text))
    }
}

impl From<How> for String {
    fn from(how: How) -> String {
        how.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_is_read_back_as_what_it_was() {
        for (how, sentence) in [
            (How::Changed, "changed"),
            (How::Missing, "missing"),
            (How::ReplacedBy("numpy".into()), "replaced by numpy"),
            (
                How::LeftOut(Unfit::Unreadable("Permission denied (os error 13)".into())),
                "left out: cannot be read (Permission denied (os error 13))",
            ),
            (How::LeftOut(Unfit::NoFile), "left out: not a regular file"),
            (
                How::LeftOut(Unfit::Outside("/srv/a".into())),
                "left out: leads to /srv/a, outside the environment; put a copy in its place",
            ),
            (How::LeftOut(Unfit::Displaces), "left out: it would take the interpreter's place"),
            (How::Secret("a private key".into()), "left out, a secret: a private key"),
            (How::Other("left out: too large".into()), "left out: too large"),
        ] {
            assert_eq!(serde_json::to_value(&how).unwrap(), sentence);
            assert_eq!(serde_json::from_value::<How>(sentence.into()).unwrap(), how);
        }
    }
}
