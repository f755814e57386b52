//! What is to be delivered of something that happened to a job. Pure.
use crate::formats::comfy::api::shapes::outputs;
use crate::formats::comfy::api::submission::Addresses;
use crate::formats::hex::hex;
use crate::gateway::deliveries::public;
use crate::jobs::delivery::{Delivery, Kind};
use crate::jobs::model::{History, Job, Reason, State, Time};
use crate::protocol::deliveries::{Deliveries, Event};
use crate::protocol::web_address::WebAddress;
use crate::sys::clock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The places of a service's own.
pub const WEBHOOK: &str = "webhook";
pub const UPLOAD: &str = "upload";

/// Outputs of more bytes are left out of a webhook: who gets it asks for them.
const OUTPUTS: usize = 256 << 10;

pub struct Told<'a> {
    pub service: &'a str,
    pub job: &'a Job,
    pub event: Event,
    pub at: Time,
    pub reason: Option<&'a Reason>,
    pub history: Option<&'a History>,
}

pub fn of_end(state: State) -> Option<Event> {
    match state {
        State::Succeeded => Some(Event::Succeeded),
        State::Failed => Some(Event::Failed),
        State::Cancelled => Some(Event::Cancelled),
        State::Expired => Some(Event::Expired),
        State::Queued | State::Dispatched | State::Running => None,
    }
}

/// `own`: what the job asked for itself, which was allowed when it was accepted.
pub fn deliveries(rules: &Deliveries, told: &Told, own: &Addresses) -> Vec<Delivery> {
    let allowed = |text: &Option<String>| {
        let address = public::allowed(Some(rules), text.as_deref()?).ok()?;
        Some((address.origin().to_string(), address))
    };
    let mut found = Vec::new();
    let service = |place: &str| (place.to_string(), None::<WebAddress>);
    let own_of = |(place, address): (String, WebAddress)| (place, Some(address));
    if rules.events.contains(&told.event) {
        let own = allowed(&own.webhook).filter(|(_, address)| rules.webhook.as_ref() != Some(address));
        let places = rules.webhook.iter().map(|_| service(WEBHOOK)).chain(own.map(own_of));
        let payload = payload(told);
        found.extend(places.map(|place| one(told, Kind::Webhook, place, payload.clone())));
    }
    if told.event == Event::Succeeded
        && let Some(history) = told.history
    {
        let files = outputs::saved(&history["outputs"]);
        let own = allowed(&own.upload).map(own_of);
        for place in rules.upload.iter().map(|_| service(UPLOAD)).chain(own) {
            found.extend(files.iter().map(|file| one(told, Kind::Upload, place.clone(), upload(told, file))));
        }
    }
    found
}

fn one(told: &Told, kind: Kind, (place, address): (String, Option<WebAddress>), content: Value) -> Delivery {
    let address = address.map(|address| address.to_string());
    let named = format!("{}\n{}\n{}\n{place}\n{address:?}\n{content}", told.job.id, told.at, kind.name());
    // The same event gives the same id, whoever writes it.
    let digest = Sha256::digest(named.as_bytes());
    let id = format!("{}_{}", if kind == Kind::Webhook { "msg" } else { "upl" }, hex(&digest[..16]));
    Delivery { address, ..Delivery::new(id, &told.job.id, kind, &place, content, told.at) }
}

/// As Standard Webhooks has it; `uploads` is added when it is sent.
fn payload(told: &Told) -> Value {
    let job = told.job;
    let ended = (told.event != Event::Started).then_some(told.at);
    let mut data = json!({
        "id": job.id,
        "service": told.service,
        "client_id": job.client,
        "workflow_id": job.workflow,
        "priority": job.priority,
        "accepted": job.accepted,
        "started": job.started,
        "ended": ended,
        "instance": job.instance,
        "generation": job.generation,
        "tries": job.tries.len() + usize::from(job.started.is_some()),
    });
    if let Some(reason) = told.reason {
        data["reason"] = json!({ "kind": reason.kind, "message": reason.message });
    }
    if let Some(history) = told.history {
        let outputs = &history["outputs"];
        if outputs.to_string().len() <= OUTPUTS {
            data["outputs"] = outputs.clone();
        } else {
            data["outputs_left_out"] = true.into();
        }
    }
    json!({ "type": told.event.name(), "timestamp": timestamp(told.at), "data": data })
}

/// RFC 3339 with milliseconds.
fn timestamp(at: Time) -> String {
    let seconds = clock::rfc3339(at / 1000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), at % 1000)
}

fn upload(told: &Told, file: &outputs::File) -> Value {
    json!({ "filename": file.filename, "subfolder": file.subfolder, "type": "output", "instance": told.job.instance })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::callers::Origin;
    use crate::protocol::deliveries::Upload;

    fn job() -> Job {
        Job {
            id: "7f3a62c4-5b1e-4b6e-9d0a-2f1c8e6b7a90".into(),
            seq: 1,
            number: 0.0,
            priority: 2,
            owner: "o".into(),
            client: Some("c".into()),
            workflow: None,
            sum: [0; 32],
            warmth: 0,
            retry: true,
            state: State::Running,
            accepted: 1_764_000_000_000,
            dispatched: None,
            started: Some(1_764_000_001_000),
            ended: None,
            instance: Some("s0-g7".into()),
            generation: Some(7),
            cancelled: false,
            tries: Vec::new(),
            reason: None,
        }
    }

    #[test]
    fn who_hears_of_an_end() {
        let (job, history) = (
            job(),
            json!({"outputs": {"9": {"images": [
            {"filename": "a.png", "subfolder": "x", "type": "output"}, {"filename": "p.png", "type": "temp"}]}}}),
        );
        let told = |event| Told {
            service: "demo",
            job: &job,
            event,
            at: 1_764_000_010_450,
            reason: None,
            history: Some(&history),
        };
        let own = Addresses {
            webhook: Some("https://a.example/hook".into()),
            upload: Some("https://b.example/{filename}".into()),
        };
        let nobody = Deliveries::default();
        assert!(deliveries(&nobody, &told(Event::Succeeded), &own).is_empty());
        let rules = Deliveries {
            webhook: Some(WebAddress::parse("http://h/x").unwrap()),
            origins: vec![Origin::parse("https://a.example").unwrap()],
            upload: Some(Upload::Http { url: "http://h/{filename}".into(), header: None }),
            ..nobody
        };
        let found = deliveries(&rules, &told(Event::Succeeded), &own);
        let places: Vec<(Kind, &str)> = found.iter().map(|d| (d.kind, d.place.as_str())).collect();
        let both =
            [(Kind::Webhook, "webhook"), (Kind::Webhook, "https://a.example"), (Kind::Upload, "upload")];
        assert_eq!(places, both);
        assert_eq!(found[1].address.as_deref(), Some("https://a.example/hook"));
        assert_eq!(found[2].content["filename"], "a.png");
        let payload = &found[0].content;
        assert_eq!(payload["type"], "job.succeeded");
        assert_eq!(payload["timestamp"], "2025-11-24T16:00:10.450Z");
        assert_eq!(payload["data"]["outputs"], history["outputs"]);
        assert_eq!(payload["data"]["tries"], 1);
        // Twice the same, and each its own.
        assert_eq!(deliveries(&rules, &told(Event::Succeeded), &own), found);
        assert_ne!(found[0].id, found[1].id);
        assert!(found[0].id.starts_with("msg_") && found[0].id.len() == 36);
        assert_eq!(
            deliveries(&rules, &told(Event::Failed), &own).len(),
            2,
            "what failed made nothing to keep"
        );
        assert!(deliveries(&rules, &told(Event::Started), &own).is_empty());
    }

    #[test]
    fn a_jobs_own_address_is_not_told_twice() {
        let job = job();
        let told =
            Told { service: "demo", job: &job, event: Event::Failed, at: 1, reason: None, history: None };
        let address = WebAddress::parse("https://a.example/hook").unwrap();
        let rules = Deliveries {
            origins: vec![address.origin().clone()],
            webhook: Some(address),
            ..Deliveries::default()
        };
        let own = Addresses { webhook: Some("https://A.example/hook".into()), upload: None };
        assert_eq!(deliveries(&rules, &told, &own).len(), 1);
    }
}
