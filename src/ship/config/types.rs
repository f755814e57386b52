//! The keys of `[service]`, `[rollout]` and `[ship]`: one type for stillframe.toml, for hosts and for Nix.
use super::receivers::{DeliveriesConfig, UploadsConfig, WebhooksConfig};
use super::scaling_types::ScalingConfig;
use super::value::ValueConfig;
use crate::protocol::callers::{HostName, Network, Origin};
use crate::protocol::jobs::DrainRunning;
use crate::protocol::spec::Rotation;
use crate::ship::quantity::{Size, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

pub const DEFAULT_NAME: &str = "comfyui";
pub const DEFAULT_PORT: u16 = 8188;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServiceConfig {
    /// What it is called on its hosts (default: comfyui).
    pub name: Option<String>,
    /// Further arguments for ComfyUI. Of stillframe.toml they are in the snapshot; a host's follow them. What stillframe sets
    /// itself, or what names files of the workstation, is refused.
    pub arguments: Vec<String>,
    /// Variables of ComfyUI's environment. Of stillframe.toml they are in the snapshot; a host's are added.
    pub environment: BTreeMap<String, String>,
    /// Programs of this machine that ship with what they load, by name on PATH or by path; instances find them on PATH
    /// before the host's. Of stillframe.toml alone: they are in the snapshot (default: none).
    pub programs: Option<Vec<String>>,
    /// Files and folders of this machine's system that ship: instances see them at the same absolute path, in place of the
    /// host's. Of stillframe.toml alone: they are in the snapshot (default: none).
    pub system_files: Option<Vec<String>>,
    /// The public address (default: 127.0.0.1).
    #[schemars(extend("pattern" = "^[0-9a-fA-F.:]+$", "x-expects" = "an IP address"))]
    pub listen: Option<IpAddr>,
    /// The public port (default: 8188).
    pub port: Option<u16>,
    /// The folder of models on the host.
    pub models: Option<String>,
    /// Where pictures go (default: a folder of the service's own).
    pub output: Option<String>,
    /// A user of the host to run as (default: one that exists while an instance does).
    pub user: Option<String>,
    /// "auto" (default: all that the host has, else the CPU), "all", "none", or a list: one slot each.
    pub gpus: Option<Gpus>,
    /// The GPUs of each slot, in place of `gpus`; or how many slots on the CPU.
    pub slots: Option<Slots>,
    /// Has no effect: instances listen on Unix sockets. It is read so that older files stay valid.
    pub instance_ports: Option<Ports>,
    /// Further folders of the host that instances see (default: none).
    pub folders: Option<Vec<FolderConfig>>,
    /// Folders inside the program's own tree that outlive an instance.
    pub keep: Option<Vec<String>>,
    /// Where the GPU driver's libraries are, if in no usual place.
    pub driver: Option<String>,
    /// "surge" (default) or "replace".
    pub rotation: Option<Rotation>,
    /// How long the old instances may finish what they have (default: 60s).
    pub drain: Option<Span>,
    /// What each instance may use.
    pub resources: ResourcesConfig,
    /// How many instances run.
    pub scaling: ScalingConfig,
    /// When a new instance counts as healthy.
    pub health: HealthConfig,
    /// What the public port takes.
    pub gateway: GatewayConfig,
    /// Who keeps the queue, and how.
    pub jobs: JobsConfig,
    /// To instances as systemd credentials, by name; never in the store, a log or a process list.
    pub secrets: BTreeMap<String, SecretConfig>,
    /// What is kept of earlier deployments.
    pub retention: RetentionConfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "gpus is \"auto\", \"all\", \"none\" or a list of GPU numbers or UUIDs")]
pub enum Gpus {
    Word(GpuWord),
    List(Vec<Gpu>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GpuWord {
    Auto,
    All,
    None,
}

/// A number as nvidia-smi shows it, or a UUID (`GPU-…`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a GPU is a number or a UUID (\"GPU-…\")")]
pub enum Gpu {
    Number(u32),
    Uuid(String),
}

impl Gpu {
    pub(super) fn text(&self) -> String {
        match self {
            Gpu::Number(number) => number.to_string(),
            Gpu::Uuid(uuid) => uuid.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "slots is a number (on the CPU) or a list of lists of GPUs")]
pub enum Slots {
    Cpu(u32),
    Gpus(Vec<Vec<Gpu>>),
}

/// `first-last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports(pub u16, pub u16);

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Ports, String> {
        let parts = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parts {
            Some((first, last)) if first >= 1024 && first <= last => Ok(Ports(first, last)),
            _ => Err(format!("{text:?} is no range of ports: write \"20000-20999\", from 1024 on")),
        }
    }
}

impl From<Ports> for String {
    fn from(Ports(first, last): Ports) -> String {
        format!("{first}-{last}")
    }
}

impl JsonSchema for Ports {
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]{4,5}-[0-9]{4,5}$",
            "x-expects": "a range of ports as in \"20000-20999\""})
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FolderConfig {
    /// On the host.
    pub path: String,
    /// Where instances see it, relative to ComfyUI's base directory: `input/shared`.
    pub at: String,
    /// Whether instances may write there (default: false).
    #[serde(default)]
    pub writable: bool,
}

/// Of each instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ResourcesConfig {
    /// At most so much memory (default: no limit).
    pub memory: Option<Size>,
    /// At most so many cores, as in 3.5 (default: no limit).
    pub cpu: Option<Cores>,
}

/// In hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Cores(pub u32);

impl TryFrom<f64> for Cores {
    type Error = String;

    fn try_from(cores: f64) -> Result<Cores, String> {
        if !(0.01..=4096.0).contains(&cores) {
            return Err(format!("{cores} is no number of cores: write 4 or 1.5"));
        }
        Ok(Cores((cores * 100.0).round() as u32))
    }
}

impl From<Cores> for f64 {
    fn from(Cores(hundredths): Cores) -> f64 {
        f64::from(hundredths) / 100.0
    }
}

impl JsonSchema for Cores {
    fn schema_name() -> Cow<'static, str> {
        "Cores".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0.01, "maximum": 4096,
            "x-expects": "a number of cores as in 4 or 1.5"})
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HealthConfig {
    /// What is asked (default: /system_stats).
    pub path: Option<String>,
    /// Between two looks (default: 500ms).
    pub interval: Option<Span>,
    /// So many good answers in a row (default: 3) …
    pub passes: Option<u32>,
    /// … over at least this time (default: 2s) …
    pub minimum: Option<Span>,
    /// … and all of it within this time (default: 5min).
    pub deadline: Option<Span>,
    /// One answer may take this long (default: 5s).
    pub timeout: Option<Span>,
    /// Whether what `--probe` found must be there: node classes, packs that import, web extensions, routes (default: true).
    pub classes: Option<bool>,
    /// A workflow (API format) that each new instance must run before it has traffic, relative to the file.
    pub smoke: Option<PathBuf>,
    /// How long that may take (default: 5min).
    pub smoke_deadline: Option<Span>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GatewayConfig {
    /// Keys that requests must bring; needed when `listen` is not loopback.
    pub api_keys: Option<Vec<ValueConfig>>,
    /// Serve without a key where others can reach it: ComfyUI runs whatever it is sent.
    pub without_api_key: Option<bool>,
    /// Origins whose pages may change things and open WebSockets, as in "https://pictures.example": for a reverse
    /// proxy that asks by another name than the browser's, and for pages of another site that open a WebSocket
    /// with a key. Other answers such a page cannot read: the gateway sends no CORS headers (default: none but
    /// its own).
    pub origins: Option<Vec<Origin>>,
    /// Names that the service is called by, besides addresses, localhost, the host's own name, its `address` and
    /// the hosts of `origins` (default: none).
    pub hosts: Option<Vec<HostName>>,
    /// Proxies whose X-Forwarded-For is believed: addresses or networks (default: none).
    pub trusted_proxies: Option<Vec<Network>>,
    /// Prometheus metrics, on loopback (default: the public port + 1; 0: none).
    pub metrics_port: Option<u16>,
    /// The largest request body (default: 1GiB).
    pub body_limit: Option<Size>,
    /// How long a request waits while no instance is ready (default: 15s; with replace 2min).
    pub hold: Option<Span>,
    /// How many may wait (default: 256).
    pub waiting: Option<usize>,
    /// … of one client: an address of IPv4, a /64 of IPv6 (default: a quarter, at least 16).
    pub waiting_per_client: Option<usize>,
    /// … with one API key (default: half; all where there is one key).
    pub waiting_per_key: Option<usize>,
    /// Connections at once (default: 4096).
    pub connections: Option<usize>,
    /// … of one client (default: a quarter, at least 64); behind a trusted proxy its open requests.
    pub connections_per_client: Option<usize>,
    /// Open requests and WebSockets with one API key (default: half of `connections`; all where there is one key).
    pub requests_per_key: Option<usize>,
    /// Wrong keys that a client may bring within a minute, before it gets 429 (default: 20).
    pub wrong_keys: Option<u32>,
    /// A request's head must be there within (default: 10s).
    pub head_timeout: Option<Span>,
    /// An instance must begin its answer within (default: 5min).
    pub response_timeout: Option<Span>,
    /// A connection on which nothing moves ends after (default: 75s).
    pub idle_timeout: Option<Span>,
}

/// With `queue = "instances"` nothing else that is said here has an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct JobsConfig {
    /// "gateway" (default): a job is on disk before its client hears that it was accepted, and runs whatever dies in between;
    /// queue and history are one for the service. "instances": each instance has its own, which end with it. A change
    /// restarts the gateway once. Let jobs end before going back to "instances": what waits then stays on the host's
    /// disk until the gateway has the queue again.
    pub queue: Option<QueueOf>,
    /// How many jobs may wait; what comes then is answered 429 (default: 10000).
    pub waiting: Option<u64>,
    /// … of one client: an API key, else a client id (default: 1000).
    pub waiting_per_client: Option<u64>,
    /// How often a job is begun whose instance or host dies, before it has failed (default: 3).
    pub tries: Option<u32>,
    /// What becomes of a job that still runs when `drain` has passed: "requeue" (default; it is interrupted and waits again) or
    /// "fail".
    pub drain_running: Option<DrainRunning>,
    /// An instance with a job that neither reports progress nor answers for so long is ended, starts again, and its job waits
    /// again (default: 10min).
    pub stuck_after: Option<Span>,
    /// A job that waits longer has expired (default: none does).
    pub expire_waiting: Option<Span>,
    /// What is kept of jobs that have ended, with their prompts and results; beyond any of these the oldest go.
    pub keep: KeepConfig,
    /// How what is sent to others is sent.
    pub deliveries: DeliveriesConfig,
    /// Who is told when a job has ended.
    pub webhooks: WebhooksConfig,
    /// Where the files go that a job has saved.
    pub uploads: UploadsConfig,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueueOf {
    Instances,
    #[default]
    Gateway,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct KeepConfig {
    /// For so long after their end (default: 30d).
    pub age: Option<Span>,
    /// So many (default: 100000).
    pub count: Option<u64>,
    /// As much as prompts and histories take together (default: 10GiB).
    pub bytes: Option<Size>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretConfig {
    /// A variable of the environment that stillframe runs in.
    pub env: Option<String>,
    /// A file, relative to the one that names it; a last line break does not count.
    #[schemars(extend("x-private" = true))]
    pub file: Option<PathBuf>,
    /// A command that prints it.
    pub command: Option<Vec<String>>,
    /// "variable" (default): the environment variable of its name, and a file; "file": a file alone, in
    /// $CREDENTIALS_DIRECTORY.
    #[serde(default, rename = "as")]
    pub form: SecretForm,
    /// A file of the environment that it takes the place of in each instance, as in "custom_nodes/a-pack/settings.json"; it is then no
    /// variable.
    pub at: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretForm {
    #[default]
    Variable,
    File,
}

impl SecretConfig {
    pub fn value(&self) -> ValueConfig {
        ValueConfig { env: self.env.clone(), file: self.file.clone(), command: self.command.clone() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RetentionConfig {
    /// Generations kept besides the serving one (default: 3).
    pub generations: Option<u32>,
}

/// How a deployment goes over several hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RolloutConfig {
    /// So many hosts first, to see whether it goes well (default: 1).
    pub canary: Option<u32>,
    /// So many at once after that: a number or "25%" (default).
    pub batch: Option<Share>,
    /// At most so many hosts may be down or fail before the whole is stopped (default: "50%" down, none failed).
    pub max_unavailable: Option<Share>,
}

/// A number of hosts, or a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ShareText", into = "ShareText")]
pub enum Share {
    Hosts(u32),
    Percent(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of hosts, or a part of them as in \"25%\"")]
enum ShareText {
    Number(u32),
    Text(String),
}

impl From<Share> for ShareText {
    fn from(share: Share) -> ShareText {
        match share {
            Share::Hosts(number) => ShareText::Number(number),
            Share::Percent(percent) => ShareText::Text(format!("{percent}%")),
        }
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^([0-9]|[1-9][0-9]|100)%$"}],
            "x-expects": "a number of hosts, or a part of them as in \"25%\""})
    }
}

impl TryFrom<ShareText> for Share {
    type Error = String;

    fn try_from(text: ShareText) -> Result<Share, String> {
        match text {
            ShareText::Number(number) => Ok(Share::Hosts(number)),
            ShareText::Text(text) => match text.strip_suffix('%').and_then(|n| n.parse().ok()) {
                Some(percent) if percent <= 100 => Ok(Share::Percent(percent)),
                _ => Err(format!("{text:?} is neither a number of hosts nor a part of them as in \"25%\"")),
            },
        }
    }
}

impl Share {
    /// Of so many hosts; a part of a host is none.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Share::Hosts(number) => number as usize,
            Share::Percent(percent) => hosts * percent as usize / 100,
        }
    }
}

/// Where closures come from besides this workstation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ShipConfig {
    /// A binary cache that hosts copy from first, as `nix copy --to` filled it: file://, https://, s3://.
    pub cache: Option<String>,
    /// Its public keys; without one, signatures are not asked for.
    pub cache_public_keys: Vec<String>,
}
