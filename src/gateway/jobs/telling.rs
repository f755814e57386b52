//! What others are told of a job: written with what it tells of, shown to operators, and allowed or refused when a job asks
//! for it.
use crate::formats::comfy::api::invalid::Invalid;
use crate::formats::comfy::api::submission::Addresses;
use crate::gateway::access_log::Level;
use crate::gateway::deliveries::events::{self, Told};
use crate::gateway::deliveries::{public, told};
use crate::gateway::jobs::engine::{Engine, now};
use crate::gateway::shared::Gateway;
use crate::jobs::delivery::{FindDeliveries, Kind, State};
use crate::jobs::model::{History, Job, Reason};
use crate::jobs::store::Write;
use crate::protocol::deliveries::{Deliveries, DeliveryState, Event, JobUpload};
use crate::protocol::jobs::{JobActed, JobsAnswer};
use crate::sys::error::Error;

/// Uploads of one job that are shown.
const UPLOADS: u64 = 1_000;

/// What happened to a job.
pub struct Happened<'a> {
    pub job: &'a Job,
    pub event: Event,
    pub at: u64,
    pub reason: Option<&'a Reason>,
    pub history: Option<&'a History>,
}

/// To be written in the transaction of what happened.
pub async fn writes(gateway: &Gateway, engine: &Engine, happened: &Happened<'_>) -> Vec<Write> {
    let settings = engine.settings();
    let Some(rules) = settings.deliveries.as_ref() else { return Vec::new() };
    let Happened { job, event, at, reason, history } = *happened;
    if event == Event::Started && !rules.events.contains(&event) {
        return Vec::new();
    }
    let own = match rules.origins.is_empty() {
        true => Addresses::default(),
        false => own(gateway, engine, &job.id).await,
    };
    let service = &gateway.active().settings.service;
    let told = Told { service, job, event, at, reason, history };
    events::deliveries(rules, &told, &own).into_iter().map(|one| Write::Deliver(Box::new(one))).collect()
}

async fn own(gateway: &Gateway, engine: &Engine, id: &str) -> Addresses {
    match engine.ledger.body(id).await {
        Ok(body) => body.map(|body| Addresses::of(&body.extra_data)).unwrap_or_default(),
        Err(e) => {
            let text = format!("{id}: who is to be told by its own wish is not known: {}", e.full());
            engine.note(&gateway.log, Level::Error, &text);
            Addresses::default()
        }
    }
}

/// Refuses a job whose own addresses are not allowed.
pub fn check(rules: Option<&Deliveries>, asked: &Addresses) -> Result<(), Invalid> {
    let refuse = |name: &str, why: &str| {
        let message = format!("extra_data.stillframe.{name} is not allowed");
        Err(Invalid::new(400, "invalid_extra_data", &message, &format!("it {why}")))
    };
    for (name, address) in [("webhook", &asked.webhook), ("upload", &asked.upload)] {
        if let Some(Err(why)) = address.as_ref().map(|address| public::allowed(rules, address)) {
            return refuse(name, &why);
        }
    }
    match &asked.upload {
        Some(address) if !address.contains("{filename}") => {
            refuse("upload", "does not say where {filename} goes")
        }
        _ => Ok(()),
    }
}

pub async fn uploads(gateway: &Gateway, engine: &Engine, job: &str) -> Result<Vec<JobUpload>, String> {
    let find = FindDeliveries {
        job: Some(job.into()),
        kind: Some(Kind::Upload),
        limit: Some(UPLOADS),
        ..FindDeliveries::default()
    };
    let (mut found, _) = engine.ledger.deliveries(find).await.map_err(full)?;
    found.reverse();
    let (rules, service) = (rules(engine), gateway.active().settings.service.clone());
    Ok(found.iter().map(|delivery| told::upload(&rules, &service, delivery)).collect())
}

fn rules(engine: &Engine) -> Deliveries {
    engine.settings().deliveries.clone().unwrap_or_default()
}

fn full(e: Error) -> String {
    e.full()
}

pub async fn list(
    gateway: &Gateway,
    engine: &Engine,
    states: Vec<DeliveryState>,
    job: Option<String>,
    limit: u64,
) -> Result<JobsAnswer, String> {
    let states = states.into_iter().map(told::asked).collect();
    let find = FindDeliveries { states, job, limit: Some(limit), ..FindDeliveries::default() };
    let (found, total) = engine.ledger.deliveries(find).await.map_err(full)?;
    let (waiting, failed) = engine.ledger.counts().await.map_err(full)?;
    let (rules, service) = (rules(engine), gateway.active().settings.service.clone());
    let deliveries = found.iter().map(|delivery| told::row(&rules, &service, delivery)).collect();
    Ok(JobsAnswer::Deliveries { deliveries, total, waiting, failed })
}

/// Tries again at once what waits or was given up; with `failed`, all that was given up.
pub async fn again(engine: &Engine, ids: Vec<String>, failed: bool) -> Result<JobsAnswer, String> {
    let states = if failed { vec![State::Failed] } else { Vec::new() };
    let known = if failed || !ids.is_empty() {
        let find = FindDeliveries { ids: ids.clone(), states, ..FindDeliveries::default() };
        engine.ledger.deliveries(find).await.map_err(full)?.0
    } else {
        Vec::new()
    };
    let wanted = if failed { known.iter().map(|delivery| delivery.id.clone()).collect() } else { ids };
    let mut jobs = Vec::with_capacity(wanted.len());
    for id in wanted {
        let why = match known.iter().find(|delivery| delivery.id == id).map(|delivery| delivery.state) {
            None => Some("no such delivery"),
            Some(State::Delivered) => Some("it is delivered"),
            Some(State::Waiting | State::Failed | State::Gone) => None,
        };
        jobs.push(JobActed { id, done: why.is_none(), why: why.map(String::from) });
    }
    let ids: Vec<String> = jobs.iter().filter(|one| one.done).map(|one| one.id.clone()).collect();
    if !ids.is_empty() {
        engine.ledger.write(Write::Redeliver { ids, at: now() }).await.map_err(full)?;
    }
    engine.deliveries_again();
    Ok(JobsAnswer::Acted { jobs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::callers::Origin;

    #[test]
    fn a_job_asks_for_what_is_allowed() {
        let rules = Deliveries {
            origins: vec![Origin::parse("https://a.example").unwrap()],
            ..Deliveries::default()
        };
        let asked = |webhook: Option<&str>, upload: Option<&str>| Addresses {
            webhook: webhook.map(String::from),
            upload: upload.map(String::from),
        };
        let said = |of: Option<&Deliveries>, asked: &Addresses| {
            check(of, asked).map_err(|e| (e.status, e.body["error"]["details"].as_str().unwrap().to_string()))
        };
        assert_eq!(said(None, &Addresses::default()), Ok(()));
        assert_eq!(
            said(Some(&rules), &asked(Some("https://a.example/x"), Some("https://a.example/{filename}"))),
            Ok(())
        );
        let other = "it is at http://169.254.169.254, which this service does not allow";
        assert_eq!(
            said(Some(&rules), &asked(Some("http://169.254.169.254/x"), None)),
            Err((400, other.into()))
        );
        assert!(said(None, &asked(Some("https://a.example/x"), None)).is_err());
        let nowhere = "it does not say where {filename} goes";
        assert_eq!(said(Some(&rules), &asked(None, Some("https://a.example/"))), Err((400, nowhere.into())));
    }
}
