//! The URL of a package index, its credentials apart.
use crate::formats::python::simple_index::percent_decoded;
use std::fmt;
use url::Url;

/// The URL of an index. Its credentials are kept apart and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct IndexUrl {
    url: Url,
    credentials: Option<(String, Option<String>)>,
}

impl IndexUrl {
    /// Only http and https: other schemes cannot be asked.
    pub fn parse(text: &str) -> Option<Self> {
        let mut url = Url::parse(text.trim()).ok()?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return None;
        }
        let user = percent_decoded(url.username());
        let password = url.password().map(percent_decoded);
        let credentials = (!user.is_empty() || password.is_some()).then_some((user, password));
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Some(IndexUrl { url, credentials })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn credentials(&self) -> Option<(&str, Option<&str>)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_deref()))
    }

    pub(super) fn with_credentials(mut self, user: Option<&String>, password: Option<&String>) -> Self {
        if user.is_some() || password.is_some() {
            self.credentials = Some((user.cloned().unwrap_or_default(), password.cloned()));
        }
        self
    }

    /// The page of a project, by its normalised name.
    pub fn project(&self, name: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{name}/", self.url.path()));
        url
    }
}

impl fmt::Display for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IndexUrl({})", self.url)
    }
}

impl serde::Serialize for IndexUrl {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.url.as_str())
    }
}
