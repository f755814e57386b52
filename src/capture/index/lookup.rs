//! Asking the package index which wheels the installed distributions came from, for a whole capture: the
//! settings read once, what it took, and an end when the user asks for one.
use crate::capture::files::paths::finding;
use crate::capture::index::client::{ClientOptions, IndexClient, Stats};
use crate::capture::index::no_wheel::NoWheel;
use crate::capture::index::provenance::{Candidate, Want, find_wheels};
use crate::capture::index::settings::IndexSettings;
use crate::capture::index::sources::SettingsInput;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, Progress, check_interrupt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::time::Instant;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IndexReport {
    pub source: String,
    pub index_bytes: u64,
    pub range_bytes: u64,
    pub requests: u64,
    pub seconds: f64,
}

/// Who is asked; nobody with `--offline`.
pub struct Ask {
    settings: Option<IndexSettings>,
}

impl Ask {
    pub fn offline() -> Self {
        Ask { settings: None }
    }

    /// What the environment's pip or uv is configured with: in the environment's folder, its prefix, its site directories
    /// or its standard library.
    pub fn of(root: &Path, prefix: &Path, sites: &[PathBuf], stdlib: &Path) -> Result<Self> {
        let input = SettingsInput {
            project: Some(root.to_path_buf()),
            prefix: Some(prefix.to_path_buf()),
            site_packages: sites.to_vec(),
            stdlib: Some(stdlib.to_path_buf()),
            ..SettingsInput::from_process()
        };
        Ok(Ask { settings: Some(IndexSettings::discover(&input)?) })
    }

    /// What is configured and not asked.
    pub fn findings(&self) -> Vec<Finding> {
        let ignored = self.settings.iter().flat_map(|settings| &settings.ignored);
        ignored
            .map(|what| finding(Severity::Info, Topic::Index, "index", format!("not asked: {what}")))
            .collect()
    }

    /// Names those who are asked: an answer of "no such wheel" lasts as long as this stays the same.
    /// `None`: nobody, so that any earlier answer is as good as it gets.
    pub fn key(&self) -> Option<String> {
        let settings = self.settings.as_ref()?;
        let urls: Vec<String> = settings.indexes.iter().map(ToString::to_string).collect();
        Some(urls.join(" "))
    }

    /// One candidate for each of `wants`, in their order.
    pub fn candidates(
        &self,
        wants: &[Want],
        cache: &Path,
        progress: &dyn Progress,
        report: &mut Option<IndexReport>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<Candidate>> {
        let Some(settings) = &self.settings else {
            return Ok(wants.iter().map(|_| Candidate::None(NoWheel::Offline)).collect());
        };
        let options = ClientOptions::default().at_most(settings.timeout);
        let client = IndexClient::new(settings.clone(), Some(cache), options)?;
        progress.stage("asking the index", Amount::Items(wants.len() as u64));
        let started = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Io, "cannot start the network threads").caused_by(e))?;
        let asking = find_wheels(&client, wants, |done, _| {
            if done > 0 {
                progress.advance(1);
            }
        });
        let found = runtime.block_on(async {
            tokio::select! { found = asking => Ok(found), e = interrupted() => Err(e) }
        });
        // A look-up of a host name cannot be cut short: it is left behind.
        runtime.shutdown_background();
        let found = found?;
        *report = Some(summed(report.take(), settings.source.clone(), client.stats(), started.elapsed()));
        let unreachable: Vec<&NoWheel> = found
            .iter()
            .filter_map(|c| match c {
                Candidate::None(why) if why.unreachable() => Some(why),
                _ => None,
            })
            .collect();
        if let Some(reason) = unreachable.first() {
            findings.push(Finding {
                severity: Severity::Problem,
                topic: Topic::Index,
                path: format!("{} distributions", unreachable.len()),
                message: format!("captured, not pinned: {reason}"),
            });
        }
        Ok(found)
    }
}

/// What this round of questions took, and the rounds before it.
fn summed(before: Option<IndexReport>, source: String, stats: Stats, took: Duration) -> IndexReport {
    let Stats { index_bytes, range_bytes, requests } = stats;
    let sum = |part: fn(&IndexReport) -> u64| before.as_ref().map_or(0, part);
    IndexReport {
        source,
        index_bytes: index_bytes + sum(|r| r.index_bytes),
        range_bytes: range_bytes + sum(|r| r.range_bytes),
        requests: requests + sum(|r| r.requests),
        seconds: took.as_secs_f64() + before.as_ref().map_or(0.0, |r| r.seconds),
    }
}

/// Ends when the user asks for a stop: what is slow must not keep a Ctrl-C waiting.
pub async fn interrupted() -> Error {
    loop {
        if let Err(e) = check_interrupt() {
            return e;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
