//! Deliveries as people and webhooks see them: where each goes is what the settings say now.
use crate::gateway::deliveries::upload::{self, Named};
use crate::jobs::delivery::{Delivery, Kind, State};
use crate::protocol::deliveries::{Deliveries, DeliveryKind, DeliveryRow, DeliveryState, JobUpload};
use crate::protocol::web_address::WebAddress;
use serde_json::json;

/// Where one goes; none: the settings no longer say.
pub fn address(rules: &Deliveries, service: &str, delivery: &Delivery) -> Result<WebAddress, String> {
    let named = Named { service, job: &delivery.job, file: &delivery.content };
    match (delivery.kind, &delivery.address, &rules.webhook, &rules.upload) {
        (Kind::Webhook, Some(own), _, _) => {
            WebAddress::parse(own).map_err(|why| format!("its address {why}"))
        }
        (Kind::Webhook, None, Some(address), _) => Ok(address.clone()),
        (Kind::Webhook, None, None, _) => Err("[service.jobs.webhooks] has no url any more".into()),
        (Kind::Upload, Some(own), _, _) => upload::own_address(own, &named),
        (Kind::Upload, None, _, Some(to)) => upload::address(to, &named),
        (Kind::Upload, None, _, None) => Err("[service.jobs.uploads] says no place any more".into()),
    }
}

fn shown(rules: &Deliveries, service: &str, delivery: &Delivery) -> String {
    let own = delivery.kind == Kind::Webhook || delivery.address.is_some();
    let upload = rules.upload.as_ref().filter(|_| !own);
    address(rules, service, delivery).map_or_else(|_| "-".into(), |address| upload::shown(upload, &address))
}

pub fn state(state: State) -> DeliveryState {
    match state {
        State::Waiting => DeliveryState::Waiting,
        State::Delivered => DeliveryState::Delivered,
        State::Failed => DeliveryState::Failed,
        State::Gone => DeliveryState::Gone,
    }
}

pub fn asked(told: DeliveryState) -> State {
    match told {
        DeliveryState::Waiting => State::Waiting,
        DeliveryState::Delivered => State::Delivered,
        DeliveryState::Failed => State::Failed,
        DeliveryState::Gone => State::Gone,
    }
}

pub fn row(rules: &Deliveries, service: &str, delivery: &Delivery) -> DeliveryRow {
    let (kind, what) = match delivery.kind {
        Kind::Webhook => (DeliveryKind::Webhook, &delivery.content["type"]),
        Kind::Upload => (DeliveryKind::Upload, &delivery.content["filename"]),
    };
    DeliveryRow {
        id: delivery.id.clone(),
        job: delivery.job.clone(),
        kind,
        what: what.as_str().unwrap_or_default().into(),
        to: shown(rules, service, delivery),
        state: state(delivery.state),
        made: delivery.made,
        due: (delivery.state == State::Waiting).then_some(delivery.due),
        ended: delivery.ended,
        tries: delivery.tries,
        why: delivery.why.clone(),
    }
}

pub fn upload(rules: &Deliveries, service: &str, delivery: &Delivery) -> JobUpload {
    let file = &delivery.content;
    JobUpload {
        file: json!({ "filename": file["filename"], "subfolder": file["subfolder"], "type": file["type"] }),
        state: state(delivery.state),
        to: shown(rules, service, delivery),
        tries: delivery.tries,
        bytes: delivery.bytes,
        why: delivery.why.clone(),
    }
}
