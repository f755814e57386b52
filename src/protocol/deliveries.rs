//! What a gateway sends to others when a job begins or ends: webhooks, and uploads of what was made. What a service asks
//! for, and what its gateway tells of each.
use crate::protocol::callers::{HostName, Origin};
use crate::protocol::web_address::WebAddress;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// None of its addresses is used where there is neither a webhook, nor an upload, nor an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Deliveries {
    /// So many are under way at most.
    pub at_once: u32,
    /// How often one is tried, and for how long after the job's event.
    pub tries: u32,
    pub age_ms: u64,
    /// After a failed try; doubled with each further one, up to the longest.
    pub pause_ms: u64,
    pub longest_pause_ms: u64,
    /// One whose other side does not move for so long has failed.
    pub timeout_ms: u64,
    /// Where a job may have something sent to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// Names among them that may have private addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_hosts: Vec<HostName>,
    /// Of what a webhook tells.
    pub events: Vec<Event>,
    /// Where every job's webhooks go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebAddress>,
    /// Where every job's files go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Upload>,
}

impl Default for Deliveries {
    fn default() -> Self {
        Deliveries {
            at_once: 8,
            tries: 20,
            age_ms: 3 * 86_400_000,
            pause_ms: 5_000,
            longest_pause_ms: 6 * 3_600_000,
            timeout_ms: 30_000,
            origins: Vec::new(),
            private_hosts: Vec::new(),
            events: Event::ENDS.to_vec(),
            webhook: None,
            upload: None,
        }
    }
}

impl Deliveries {
    /// What a gateway needs a value for.
    pub fn secrets(&self) -> Vec<&'static str> {
        let signed = self.webhook.is_some() || !self.origins.is_empty();
        let kept = match &self.upload {
            Some(Upload::S3 { .. }) => true,
            Some(Upload::Http { header, .. }) => header.is_some(),
            None => false,
        };
        let named = [(WEBHOOK_SECRET, signed), (UPLOAD_SECRET, kept)];
        named.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect()
    }
}

/// What happens to a job, as `type` of a webhook has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(rename = "JobEvent"))]
pub enum Event {
    #[serde(rename = "job.started")]
    Started,
    #[serde(rename = "job.succeeded")]
    Succeeded,
    #[serde(rename = "job.failed")]
    Failed,
    #[serde(rename = "job.cancelled")]
    Cancelled,
    #[serde(rename = "job.expired")]
    Expired,
}

impl Event {
    /// One of them is the last of every job.
    pub const ENDS: [Event; 4] = [Event::Succeeded, Event::Failed, Event::Cancelled, Event::Expired];

    pub fn name(self) -> &'static str {
        match self {
            Event::Started => "job.started",
            Event::Succeeded => "job.succeeded",
            Event::Failed => "job.failed",
            Event::Cancelled => "job.cancelled",
            Event::Expired => "job.expired",
        }
    }
}

/// `{service}`, `{job}` and `{filename}` in an address or a key stand for their values, encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(tag = "to", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Upload {
    /// PUT to any address.
    Http {
        url: String,
        /// Its value is the secret.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
    },
    S3 {
        bucket: String,
        key: String,
        region: String,
        /// None: AWS's own of the region.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<Origin>,
        /// The bucket is the first part of the path, and not of the host's name.
        path_style: bool,
        access_key: String,
    },
}

/// Names of secrets of the gateway's own. No secret of an instance has a `-`, so none is called so.
pub const WEBHOOK_SECRET: &str = "webhook-secret";
pub const UPLOAD_SECRET: &str = "upload-secret";
pub const SECRETS: [&str; 2] = [WEBHOOK_SECRET, UPLOAD_SECRET];

/// Values of them, by name. What is printed of them is their names.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl Secrets {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryKind {
    Webhook,
    Upload,
}

impl DeliveryKind {
    pub fn name(self) -> &'static str {
        match self {
            DeliveryKind::Webhook => "webhook",
            DeliveryKind::Upload => "upload",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// For its next try.
    Waiting,
    Delivered,
    /// Given up.
    Failed,
    /// The receiver answered 410: it wants no more of this job.
    Gone,
}

impl DeliveryState {
    pub const ALL: [DeliveryState; 4] =
        [DeliveryState::Waiting, DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Gone];

    pub fn name(self) -> &'static str {
        match self {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Failed => "failed",
            DeliveryState::Gone => "gone",
        }
    }

    pub fn of_name(name: &str) -> Option<DeliveryState> {
        DeliveryState::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// One delivery. Times in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct DeliveryRow {
    /// Of a webhook: its `webhook-id`.
    pub id: String,
    /// ComfyUI's `prompt_id`.
    pub job: String,
    pub kind: DeliveryKind,
    /// The event's type, or the file's name.
    pub what: String,
    /// Where it goes, without a query.
    pub to: String,
    pub state: DeliveryState,
    pub made: u64,
    /// Of one that waits: not before.
    pub due: Option<u64>,
    pub ended: Option<u64>,
    pub tries: u32,
    /// What came of the last try, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A file of a job on its way to where files go, or there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema))]
pub struct JobUpload {
    /// As ComfyUI names it: `filename`, `subfolder`, `type`.
    pub file: Value,
    pub state: DeliveryState,
    /// `s3://bucket/key`, or the address without its query.
    pub to: String,
    pub tries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serialised_ones() {
        for event in Event::ENDS.into_iter().chain([Event::Started]) {
            assert_eq!(serde_json::to_value(event).unwrap(), event.name());
        }
        for state in DeliveryState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
            assert_eq!(DeliveryState::of_name(state.name()), Some(state));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secrets = Secrets([(WEBHOOK_SECRET.to_string(), "whsec_x".to_string())].into());
        assert_eq!(format!("{secrets:?}"), "{\"webhook-secret\"}");
    }

    #[test]
    fn a_gateway_needs_what_it_signs_with() {
        let none = Deliveries::default();
        assert!(none.secrets().is_empty());
        let origins = vec![Origin::parse("https://a.example").unwrap()];
        assert_eq!(Deliveries { origins, ..none.clone() }.secrets(), [WEBHOOK_SECRET]);
        let plain = Upload::Http { url: "https://a.example/{filename}".into(), header: None };
        assert!(Deliveries { upload: Some(plain), ..none }.secrets().is_empty());
    }
}
