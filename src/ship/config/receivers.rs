//! The keys of `[service.jobs.deliveries]`, `webhooks` and `uploads`, and where files go.
use super::value::ValueConfig;
use super::wrong::{Wrong, wrong};
use crate::protocol::callers::{HostName, Origin};
use crate::protocol::deliveries::{Event, Upload};
use crate::protocol::web_address::WebAddress;
use crate::ship::quantity::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of webhooks and uploads, and what a job may ask for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DeliveriesConfig {
    /// Origins that a job may name in `extra_data.stillframe.webhook` and `.upload`; what is sent there is signed as the
    /// service's own webhooks are, which need a secret then (default: none).
    pub origins: Option<Vec<Origin>>,
    /// Names of `origins` whose addresses may be private ones, of this host or its network (default: none; an origin that is
    /// an address may be one).
    pub private_hosts: Option<Vec<HostName>>,
    /// So many are under way at most, and half of them to one place (default: 8).
    pub at_once: Option<u32>,
    /// How often one is tried (default: 20) …
    pub tries: Option<u32>,
    /// … and for how long after the event, before it is given up (default: 3d).
    pub give_up_after: Option<Span>,
    /// After the first failed try (default: 5s); doubled with each further one …
    pub pause: Option<Span>,
    /// … up to this (default: 6h).
    pub longest_pause: Option<Span>,
    /// One whose receiver does not move for so long has failed (default: 30s).
    pub timeout: Option<Span>,
}

/// By Standard Webhooks (standardwebhooks.com).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct WebhooksConfig {
    /// What is told of every job is sent there (default: nowhere). It is written into the spec, so nothing in it is secret.
    pub url: Option<WebAddress>,
    /// Of which webhooks tell (default: all but job.started).
    pub events: Option<Vec<Event>>,
    /// What webhooks are signed with: `whsec_` and 24 to 64 random bytes in base64. The gateway alone has it.
    pub secret: Option<ValueConfig>,
}

/// Of the files that a job has saved, once it has succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct UploadsConfig {
    /// Where each file goes: "s3://bucket/{service}/{job}/{filename}", or an http or https address for PUT (default: nowhere).
    pub to: Option<String>,
    /// Of S3, as in "eu-central-1".
    pub region: Option<String>,
    /// Of S3: a server that is not AWS's, as in "https://minio.example:9000".
    pub endpoint: Option<Origin>,
    /// Of S3: whether the bucket is the first part of the path, and not of the host's name (default: with an `endpoint`).
    pub path_style: Option<bool>,
    /// Of S3: the access key's id.
    pub access_key: Option<String>,
    /// Of an address: the name of a header whose value is the secret, as in "authorization" (default: none).
    pub header: Option<String>,
    /// Of S3 the secret access key, of an address the value of `header`. The gateway alone has it.
    pub secret: Option<ValueConfig>,
}

macro_rules! over {
    ($host:expr, $project:expr, $($field:ident),+) => {
        Self { $($field: $host.$field.clone().or_else(|| $project.$field.clone()),)+ }
    };
}

impl DeliveriesConfig {
    pub(super) fn over(&self, project: &Self) -> Self {
        over!(
            self,
            project,
            origins,
            private_hosts,
            at_once,
            tries,
            give_up_after,
            pause,
            longest_pause,
            timeout
        )
    }
}

impl WebhooksConfig {
    pub(super) fn over(&self, project: &Self) -> Self {
        over!(self, project, url, events, secret)
    }
}

impl UploadsConfig {
    pub(super) fn over(&self, project: &Self) -> Self {
        over!(self, project, to, region, endpoint, path_style, access_key, header, secret)
    }

    /// Where files go; none: nowhere.
    pub(super) fn upload(&self) -> Result<Option<Upload>, Wrong> {
        let Some(to) = &self.to else {
            let alone = [
                ("service.jobs.uploads.region", self.region.is_some()),
                ("service.jobs.uploads.endpoint", self.endpoint.is_some()),
                ("service.jobs.uploads.header", self.header.is_some()),
                ("service.jobs.uploads.secret", self.secret.is_some()),
            ];
            let set = alone.into_iter().find(|(_, set)| *set);
            return set.map_or(Ok(None), |(key, _)| Err(wrong(key, "is set, and `to` beside it is not")));
        };
        template(to)?;
        match to.strip_prefix("s3://") {
            Some(rest) => self.s3(rest).map(Some),
            None => self.http(to).map(Some),
        }
    }

    fn s3(&self, rest: &str) -> Result<Upload, Wrong> {
        let key = "service.jobs.uploads.to";
        let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return Err(wrong(
                key,
                format!("names the bucket {bucket:?}: use 3 to 63 of a-z, 0-9, '-' and '.'"),
            ));
        }
        if let Some(odd) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~/{}".contains(*c))) {
            return Err(wrong(
                key,
                format!("has {odd:?} in its key: use letters, digits, '-', '.', '_', '~' and '/'"),
            ));
        }
        if self.header.is_some() {
            return Err(wrong("service.jobs.uploads.header", "is of addresses, and `to` is S3"));
        }
        let needed = |key: &'static str, value: &Option<String>| match value {
            Some(value) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(value.clone())
            }
            Some(value) => Err(wrong(key, format!("is {value:?}"))),
            None => Err(wrong(key, "is not set, and `to` is S3")),
        };
        if self.secret.is_none() {
            return Err(wrong(
                "service.jobs.uploads.secret",
                "is not set, and `to` is S3: it is the secret access key",
            ));
        }
        Ok(Upload::S3 {
            bucket: bucket.into(),
            key: name.into(),
            region: needed("service.jobs.uploads.region", &self.region)?,
            endpoint: self.endpoint.clone(),
            path_style: self.path_style.unwrap_or(self.endpoint.is_some()),
            access_key: needed("service.jobs.uploads.access-key", &self.access_key)?,
        })
    }

    fn http(&self, to: &str) -> Result<Upload, Wrong> {
        WebAddress::parse(to)
            .map_err(|why| wrong("service.jobs.uploads.to", format!("{why}, nor of s3://")))?;
        let of_s3 = [
            ("service.jobs.uploads.region", self.region.is_some()),
            ("service.jobs.uploads.endpoint", self.endpoint.is_some()),
            ("service.jobs.uploads.path-style", self.path_style.is_some()),
            ("service.jobs.uploads.access-key", self.access_key.is_some()),
        ];
        if let Some((key, _)) = of_s3.into_iter().find(|(_, set)| *set) {
            return Err(wrong(key, "is of S3, and `to` is an address"));
        }
        if self.header.is_some() != self.secret.is_some() {
            let why = "and `secret` go together: one is the name, one the value";
            return Err(wrong("service.jobs.uploads.header", why));
        }
        if let Some(name) = &self.header {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            let ours =
                ["host", "content-length", "content-type", "user-agent", "transfer-encoding", "connection"];
            if name.is_empty()
                || !name.bytes().all(plain)
                || ours.iter().any(|own| name.eq_ignore_ascii_case(own))
            {
                return Err(wrong(
                    "service.jobs.uploads.header",
                    format!("is {name:?}, which is no name for it"),
                ));
            }
        }
        Ok(Upload::Http { url: to.into(), header: self.header.clone() })
    }
}

/// Names in braces are known ones, and no two files have one place.
fn template(to: &str) -> Result<(), Wrong> {
    let key = "service.jobs.uploads.to";
    let mut rest = to;
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        if !["service", "job", "filename"].contains(&name) {
            let text = format!("has {{{name}}}: there are {{service}}, {{job}} and {{filename}}");
            return Err(wrong(key, text));
        }
        rest = after;
    }
    match ["{job}", "{filename}"].iter().find(|name| !to.contains(**name)) {
        Some(lacking) => Err(wrong(key, format!("lacks {lacking}: files would take each other's place"))),
        None => Ok(()),
    }
}
