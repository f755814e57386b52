//! Wheel file names, PEP 427: `name-version(-build)?-python-abi-platform.whl`, each tag possibly a
//! dotted set (PEP 425 "compressed tag sets").
use std::collections::BTreeSet;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WheelNameError {
    #[error("{0:?} does not end in .whl")]
    Suffix(String),
    #[error("{0:?} has {1} dash-separated parts, a wheel name has 5 or 6")]
    Parts(String, usize),
    #[error("{0:?} has an empty part")]
    EmptyPart(String),
    #[error("{0:?} has the build tag {1:?}, which does not begin with a digit")]
    Build(String, String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelName {
    pub distribution: String,
    pub version: String,
    pub build: Option<String>,
    pub python: Vec<String>,
    pub abi: Vec<String>,
    pub platform: Vec<String>,
}

impl WheelName {
    pub fn parse(file: &str) -> Result<Self, WheelNameError> {
        let stem = file.strip_suffix(".whl").ok_or_else(|| WheelNameError::Suffix(file.to_owned()))?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (build, tags) = match parts.as_slice() {
            [_, _, tags @ ..] if tags.len() == 3 => (None, tags),
            [_, _, build, tags @ ..] if tags.len() == 3 => (Some(*build), tags),
            _ => return Err(WheelNameError::Parts(file.to_owned(), parts.len())),
        };
        let dotted = |tag: &str| tag.split('.').map(str::to_owned).collect::<Vec<_>>();
        if parts.iter().any(|part| part.is_empty())
            || tags.iter().any(|tag| tag.split('.').any(str::is_empty))
        {
            return Err(WheelNameError::EmptyPart(file.to_owned()));
        }
        if let Some(build) = build
            && !build.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(WheelNameError::Build(file.to_owned(), build.to_owned()));
        }
        Ok(WheelName {
            distribution: parts[0].to_owned(),
            version: parts[1].to_owned(),
            build: build.map(str::to_owned),
            python: dotted(tags[0]),
            abi: dotted(tags[1]),
            platform: dotted(tags[2]),
        })
    }

    /// Rebuilds a wheel's name from what its installed dist-info says. `None` when the tags are not
    /// a full product of python, abi and platform sets, which no single name can express.
    pub fn from_tags(name: &str, version: &str, build: Option<&str>, tags: &[String]) -> Option<Self> {
        let (mut python, mut abi, mut platform) = (Vec::new(), Vec::new(), Vec::new());
        for tag in tags {
            let parts: Vec<&str> = tag.split('-').collect();
            let [p, a, f] = parts.as_slice() else {
                return None;
            };
            for (list, part) in [(&mut python, p), (&mut abi, a), (&mut platform, f)] {
                if !list.iter().any(|have| have == part) {
                    list.push((*part).to_owned());
                }
            }
        }
        let made = WheelName {
            distribution: super::name::normalize(name).replace('-', "_"),
            version: version.replace('-', "_"),
            build: build.map(str::to_owned),
            python,
            abi,
            platform,
        };
        let wanted: BTreeSet<String> = tags.iter().cloned().collect();
        (!wanted.is_empty() && made.tags() == wanted).then_some(made)
    }

    /// The expanded tag set: `py2.py3-none-any` is `py2-none-any` and `py3-none-any`.
    pub fn tags(&self) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for python in &self.python {
            for abi in &self.abi {
                for platform in &self.platform {
                    out.insert(format!("{python}-{abi}-{platform}"));
                }
            }
        }
        out
    }
}

/// Expands one `Tag:` value; one that is not three parts stays as it is.
pub fn expand_tag(tag: &str) -> Vec<String> {
    let parts: Vec<&str> = tag.split('-').collect();
    let [python, abi, platform] = parts.as_slice() else {
        return vec![tag.to_owned()];
    };
    let mut out = Vec::new();
    for p in python.split('.') {
        for a in abi.split('.') {
            for f in platform.split('.') {
                out.push(format!("{p}-{a}-{f}"));
            }
        }
    }
    out
}

impl fmt::Display for WheelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-", self.distribution, self.version)?;
        if let Some(build) = &self.build {
            write!(f, "{build}-")?;
        }
        let (python, abi) = (self.python.join("."), self.abi.join("."));
        write!(f, "{python}-{abi}-{}.whl", self.platform.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpy_round_trips() {
        let file = "numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl";
        let name = WheelName::parse(file).unwrap();
        assert_eq!(name.to_string(), file);
        let tags: Vec<String> = name.tags().into_iter().collect();
        assert_eq!(tags, ["cp311-cp311-manylinux2014_x86_64", "cp311-cp311-manylinux_2_17_x86_64"]);
        let order = ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64"];
        let order: Vec<String> = order.iter().map(|s| (*s).to_owned()).collect();
        let made = WheelName::from_tags("NumPy", "1.26.4", None, &order).unwrap();
        assert_eq!(made.to_string(), file);
    }

    #[test]
    fn build_tag_and_universal() {
        let name = WheelName::parse("six_pack-1.0+cu121-2local-py2.py3-none-any.whl").unwrap();
        assert_eq!(name.build.as_deref(), Some("2local"));
        assert_eq!(name.version, "1.0+cu121");
        assert_eq!(name.tags().len(), 2);
        assert_eq!(expand_tag("py2.py3-none-any"), ["py2-none-any", "py3-none-any"]);
        assert_eq!(expand_tag("odd"), ["odd"]);
    }

    #[test]
    fn a_set_that_is_no_product_has_no_name() {
        let tags = ["cp310-cp310-any".to_owned(), "cp311-abi3-any".to_owned()];
        assert_eq!(WheelName::from_tags("a", "1", None, &tags), None);
        assert_eq!(WheelName::from_tags("a", "1", None, &[]), None);
    }

    #[test]
    fn errors() {
        let text = |file: &str| WheelName::parse(file).unwrap_err().to_string();
        assert_eq!(text("numpy-1.26.4.tar.gz"), "\"numpy-1.26.4.tar.gz\" does not end in .whl");
        assert_eq!(
            text("numpy-1.26.4.whl"),
            "\"numpy-1.26.4.whl\" has 2 dash-separated parts, a wheel name has 5 or 6"
        );
        assert_eq!(text("a--py3-none-any.whl"), "\"a--py3-none-any.whl\" has an empty part");
        assert_eq!(
            text("a-1-x-py3-none-any.whl"),
            "\"a-1-x-py3-none-any.whl\" has the build tag \"x\", which does not begin with a digit"
        );
    }
}
