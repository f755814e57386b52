//! From both files' values to what a host is asked to serve: a host's over the project's, and defaults.
use super::scaling_types::ScalingConfig;
use super::types::*;
use super::wrong::{Wrong, wrong};
use crate::protocol::callers::Callers;
use crate::protocol::jobs::{Jobs, Keep};
use crate::protocol::spec::{Folder, Health, Limits, Retention, Rotation, SPEC_VERSION, SecretUse, Spec};
use crate::ship::quantity::Span;
use std::net::{IpAddr, Ipv4Addr};

macro_rules! over {
    ($host:expr, $project:expr, $($field:ident),+) => {
        Self { $($field: $host.$field.clone().or_else(|| $project.$field.clone()),)+ }
    };
}

impl ResourcesConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, memory, cpu)
    }
}

impl ScalingConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, minimum, maximum, target_waiting, target_wait, step, cool_down, idle, schedules)
    }
}

impl HealthConfig {
    fn over(&self, project: &Self) -> Self {
        over!(
            self,
            project,
            path,
            interval,
            passes,
            minimum,
            deadline,
            timeout,
            classes,
            smoke,
            smoke_deadline
        )
    }
}

impl GatewayConfig {
    fn over(&self, project: &Self) -> Self {
        over!(
            self,
            project,
            api_keys,
            without_api_key,
            origins,
            hosts,
            trusted_proxies,
            metrics_port,
            body_limit,
            hold,
            waiting,
            waiting_per_client,
            waiting_per_key,
            connections,
            connections_per_client,
            requests_per_key,
            wrong_keys,
            head_timeout,
            response_timeout,
            idle_timeout
        )
    }
}

impl JobsConfig {
    fn over(&self, project: &Self) -> Self {
        JobsConfig {
            queue: self.queue.or(project.queue),
            waiting: self.waiting.or(project.waiting),
            waiting_per_client: self.waiting_per_client.or(project.waiting_per_client),
            tries: self.tries.or(project.tries),
            drain_running: self.drain_running.or(project.drain_running),
            stuck_after: self.stuck_after.or(project.stuck_after),
            expire_waiting: self.expire_waiting.or(project.expire_waiting),
            keep: self.keep.over(&project.keep),
            deliveries: self.deliveries.over(&project.deliveries),
            webhooks: self.webhooks.over(&project.webhooks),
            uploads: self.uploads.over(&project.uploads),
        }
    }
}

impl KeepConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, age, count, bytes)
    }
}

impl RetentionConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, generations)
    }
}

impl ServiceConfig {
    /// This host's values over the project's. Arguments and environment are the host's alone: the
    /// project's are in the snapshot. So are programs and files of the system, which no host adds to.
    pub fn over(&self, project: &ServiceConfig) -> ServiceConfig {
        let mut secrets = project.secrets.clone();
        secrets.extend(self.secrets.clone());
        let either = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
        ServiceConfig {
            name: either(&self.name, &project.name),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            programs: project.programs.clone(),
            system_files: project.system_files.clone(),
            listen: self.listen.or(project.listen),
            port: self.port.or(project.port),
            models: either(&self.models, &project.models),
            output: either(&self.output, &project.output),
            user: either(&self.user, &project.user),
            // Two ways to say one thing: the host's way takes the place of either of the project's.
            gpus: self.gpus.clone().or_else(|| project.gpus.clone().filter(|_| self.slots.is_none())),
            slots: self.slots.clone().or_else(|| project.slots.clone().filter(|_| self.gpus.is_none())),
            instance_ports: self.instance_ports.or(project.instance_ports),
            folders: self.folders.clone().or_else(|| project.folders.clone()),
            keep: self.keep.clone().or_else(|| project.keep.clone()),
            driver: either(&self.driver, &project.driver),
            rotation: self.rotation.or(project.rotation),
            drain: self.drain.or(project.drain),
            resources: self.resources.over(&project.resources),
            scaling: self.scaling.over(&project.scaling),
            health: self.health.over(&project.health),
            gateway: self.gateway.over(&project.gateway),
            jobs: self.jobs.over(&project.jobs),
            secrets,
            retention: self.retention.over(&project.retention),
        }
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_NAME)
    }

    pub fn port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    pub fn metrics_port(&self) -> Option<u16> {
        let port = self.gateway.metrics_port.unwrap_or_else(|| self.port().wrapping_add(1));
        Some(port).filter(|port| *port > 0)
    }

    /// The slots as configuration alone makes them; none where they follow the GPUs of the host.
    pub(super) fn own_slots(&self) -> Option<Vec<Vec<String>>> {
        match (&self.slots, &self.gpus) {
            (Some(Slots::Cpu(count)), _) => Some(vec![Vec::new(); *count as usize]),
            (Some(Slots::Gpus(slots)), _) => {
                Some(slots.iter().map(|gpus| gpus.iter().map(Gpu::text).collect()).collect())
            }
            (None, Some(Gpus::List(gpus))) => Some(gpus.iter().map(|gpu| vec![gpu.text()]).collect()),
            (None, Some(Gpus::Word(GpuWord::None))) => Some(vec![Vec::new()]),
            (None, None | Some(Gpus::Word(GpuWord::Auto | GpuWord::All))) => None,
        }
    }

    /// The slots, given the GPUs that the host has.
    fn slots(&self, found: &[String]) -> Result<Vec<Vec<String>>, Wrong> {
        match self.own_slots() {
            Some(slots) => Ok(slots),
            None if !found.is_empty() => Ok(found.iter().map(|gpu| vec![gpu.clone()]).collect()),
            None if self.gpus == Some(Gpus::Word(GpuWord::All)) => {
                Err(wrong("service.gpus", "is \"all\", and the host has none"))
            }
            None => Ok(vec![Vec::new()]),
        }
    }

    /// What the host is asked to serve. `found`: its GPUs; `keys`: hashes of the API keys; `smoke`: the
    /// workflow's own text, read.
    pub fn spec(
        &self,
        found: &[String],
        keys: Vec<String>,
        smoke: Option<serde_json::Value>,
    ) -> Result<Spec, Wrong> {
        self.check()?;
        let slots = self.slots(found)?;
        self.check_slots(&slots)?;
        let (minimum, maximum) = self.instances(&slots);
        Ok(Spec {
            version: SPEC_VERSION,
            service: self.name().into(),
            listen: self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: self.port(),
            api_keys: keys,
            metrics_port: self.metrics_port(),
            instances: minimum,
            maximum,
            scaling: self.policy(&slots),
            slots,
            memory_bytes: self.resources.memory.map(|m| m.0),
            cpu_percent: self.resources.cpu.map(|c| c.0),
            user: self.user.clone(),
            models: self.models.clone().unwrap_or_default(),
            output: self.output.clone(),
            folders: self.folders_seen(),
            keep: self.keep.clone().unwrap_or_default(),
            secrets: self.secrets_used(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            driver: self.driver.clone(),
            ports: self.instance_ports.map_or((20_000, 20_999), |p| (p.0, p.1)),
            health: self.checks_of_health(smoke),
            rotation: self.rotation(),
            drain_ms: span(self.drain, 60_000),
            retention: Retention {
                generations: self.retention.generations.unwrap_or(Retention::default().generations),
            },
            gateway: self.limits(),
            callers: self.callers(),
            jobs: self.gateway_jobs(),
        })
    }

    fn rotation(&self) -> Rotation {
        self.rotation.unwrap_or(Rotation::Surge)
    }

    fn folders_seen(&self) -> Vec<Folder> {
        let folders = self.folders.iter().flatten();
        folders.map(|f| Folder { path: f.path.clone(), at: f.at.clone(), writable: f.writable }).collect()
    }

    fn secrets_used(&self) -> Vec<SecretUse> {
        let used = |(name, secret): (&String, &SecretConfig)| SecretUse {
            name: name.clone(),
            variable: (secret.form == SecretForm::Variable && secret.at.is_none()).then(|| name.clone()),
            at: secret.at.clone(),
        };
        self.secrets.iter().map(used).collect()
    }

    fn checks_of_health(&self, smoke: Option<serde_json::Value>) -> Health {
        let (said, health) = (&self.health, Health::default());
        Health {
            path: said.path.clone().unwrap_or(health.path),
            interval_ms: span(said.interval, health.interval_ms),
            passes: said.passes.unwrap_or(health.passes),
            minimum_ms: span(said.minimum, health.minimum_ms),
            deadline_ms: span(said.deadline, health.deadline_ms),
            timeout_ms: span(said.timeout, health.timeout_ms),
            smoke,
            smoke_ms: span(said.smoke_deadline, health.smoke_ms),
        }
    }

    fn limits(&self) -> Limits {
        let (said, limits) = (&self.gateway, Limits::default());
        // Until an instance has started.
        let long = self.rotation() == Rotation::Replace || self.may_be_none();
        let hold = if long { 120_000 } else { limits.hold_ms };
        Limits {
            body: said.body_limit.map_or(limits.body, |s| s.0),
            head_ms: span(said.head_timeout, limits.head_ms),
            connect_ms: limits.connect_ms,
            response_ms: span(said.response_timeout, limits.response_ms),
            idle_ms: span(said.idle_timeout, limits.idle_ms),
            hold_ms: span(said.hold, hold),
            held: said.waiting.unwrap_or(limits.held),
            connections: said.connections.unwrap_or(limits.connections),
            client_connections: said.connections_per_client,
            client_held: said.waiting_per_client,
            key_requests: said.requests_per_key,
            key_held: said.waiting_per_key,
            wrong_keys: said.wrong_keys,
        }
    }

    /// None where each instance has its own.
    fn gateway_jobs(&self) -> Option<Jobs> {
        let (said, jobs) = (&self.jobs, Jobs::default());
        (said.queue.unwrap_or_default() == QueueOf::Gateway).then(|| Jobs {
            waiting: said.waiting.unwrap_or(jobs.waiting),
            waiting_per_client: said.waiting_per_client.unwrap_or(jobs.waiting_per_client),
            tries: said.tries.unwrap_or(jobs.tries),
            drain_running: said.drain_running.unwrap_or(jobs.drain_running),
            stuck_ms: span(said.stuck_after, jobs.stuck_ms),
            expire_ms: said.expire_waiting.map(|s| s.0),
            keep: Keep {
                age_ms: span(said.keep.age, jobs.keep.age_ms),
                count: said.keep.count.unwrap_or(jobs.keep.count),
                bytes: said.keep.bytes.map_or(jobs.keep.bytes, |s| s.0),
            },
            deliveries: said.deliveries_resolved(),
        })
    }

    fn callers(&self) -> Callers {
        let said = &self.gateway;
        Callers {
            hosts: said.hosts.clone().unwrap_or_default(),
            origins: said.origins.clone().unwrap_or_default(),
            trusted_proxies: said.trusted_proxies.clone().unwrap_or_default(),
        }
    }
}

fn span(value: Option<Span>, default: u64) -> u64 {
    value.map_or(default, |s| s.0)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
