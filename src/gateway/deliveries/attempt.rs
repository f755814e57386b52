//! One try of one delivery, and what came of it.
use crate::gateway::deliveries::outbound::{Answer, Outbound, Progress, To};
use crate::gateway::deliveries::public::{self, Wish};
use crate::gateway::deliveries::{told, upload, view, webhook};
use crate::gateway::shared::Gateway;
use crate::jobs::delivery::{Delivery, FindDeliveries, Kind};
use crate::jobs::ledger::Ledger;
use crate::protocol::deliveries::{Deliveries, UPLOAD_SECRET, WEBHOOK_SECRET};
use crate::sys::clock;
use serde_json::{Value, json};
use std::sync::Arc;

pub enum Came {
    Delivered {
        /// Of a file.
        bytes: Option<u64>,
    },
    /// 410.
    Gone,
    Failed {
        why: String,
        /// Another delivery would fail there, too.
        of_place: bool,
        retry_after: Option<u64>,
    },
}

fn failed(why: String) -> Came {
    Came::Failed { why, of_place: true, retry_after: None }
}

/// Of this one alone.
fn own_fault(why: String) -> Came {
    Came::Failed { why, of_place: false, retry_after: None }
}

pub async fn of(
    gateway: &Gateway,
    ledger: &Ledger,
    outbound: &Outbound,
    rules: &Deliveries,
    delivery: &Delivery,
) -> Came {
    let service = gateway.active().settings.service.clone();
    let address = match told::address(rules, &service, delivery) {
        Ok(address) => address,
        Err(why) => return own_fault(why),
    };
    let wish = if delivery.address.is_some() { Wish::Job } else { Wish::Service };
    if wish == Wish::Job
        && let Err(why) = public::allowed(Some(rules), &address.to_string())
    {
        return own_fault(format!("its address {why}"));
    }
    let to = To { rules, wish, address: &address };
    let secrets = gateway.secrets();
    match delivery.kind {
        Kind::Webhook => {
            let Some(secret) = secrets.get(WEBHOOK_SECRET) else {
                return failed("[service.jobs.webhooks] has no secret".into());
            };
            let body = webhook::body(delivery, uploads(ledger, rules, &service, &delivery.job).await);
            let answer = webhook::send(outbound, &to, delivery, body, secret, clock::now()).await;
            judged(answer, None, true)
        }
        Kind::Upload => {
            let progress = Arc::new(Progress::default());
            let file = match view::open(gateway, &delivery.content, &progress).await {
                Ok(file) => file,
                Err(why) => return own_fault(format!("the file cannot be read: {why}")),
            };
            let bytes = file.length;
            let upload = rules.upload.as_ref().filter(|_| wish == Wish::Service);
            let secret = secrets.get(UPLOAD_SECRET).filter(|_| wish == Wish::Service);
            let answer = upload::send(outbound, &to, upload, secret, file, &progress).await;
            judged(answer, Some(bytes), false)
        }
    }
}

/// `ends`: 410 is a word of its own (Standard Webhooks).
fn judged(answer: Result<Answer, String>, bytes: Option<u64>, ends: bool) -> Came {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return failed(why),
    };
    let why = match answer.status {
        200..=299 => return Came::Delivered { bytes },
        410 if ends => return Came::Gone,
        status @ 300..=399 => format!("it answered {status}: redirects are not followed"),
        status if bytes.is_some() && !answer.text.is_empty() && answer.text.len() <= 64 => {
            format!("it answered {status} {}", answer.text)
        }
        status => format!("it answered {status}"),
    };
    // Others of the client's are about what was sent.
    let of_place = matches!(answer.status, 408 | 429 | 500..);
    Came::Failed { why, of_place, retry_after: answer.retry_after }
}

/// What became of a job's files so far.
async fn uploads(ledger: &Ledger, rules: &Deliveries, service: &str, job: &str) -> Value {
    let kind = Some(Kind::Upload);
    let find = FindDeliveries { job: Some(job.into()), kind, limit: Some(1000), ..FindDeliveries::default() };
    let Ok((mut found, _)) = ledger.deliveries(find).await else { return Value::Null };
    found.reverse();
    json!(found.iter().map(|delivery| told::upload(rules, service, delivery)).collect::<Vec<_>>())
}
