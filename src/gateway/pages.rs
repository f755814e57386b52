//! The gateway's own pages, below `/-/`. They never go to an instance.
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::shared::Gateway;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

pub const BELOW: &str = "/-/";

/// Whether a page is shown without a key: what monitors the service has none.
pub fn is_public(path: &str) -> bool {
    matches!(path, "/-/health" | "/-/ready")
}

/// A page of ours; its body is JSON.
pub fn page(gateway: &Gateway, method: &Method, path: &str) -> Result<(StatusCode, Bytes), Refusal> {
    let service = &gateway.active().settings.service;
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::new(Fault::BadRequest, format!("{path} can only be read")));
    }
    let body = match path {
        "/-/health" => json!({ "service": service, "status": "alive" }),
        "/-/ready" => match gateway.router.ready() {
            0 => return Err(Refusal::new(Fault::NoInstance, gateway.router.why_none())),
            ready => json!({ "service": service, "status": "ready", "instances": ready }),
        },
        "/-/instances" => {
            let slot_of = |id: &str| {
                gateway.router.all().iter().find(|(i, _)| i.id() == id).map(|(i, _)| i.target.slot)
            };
            let shown = gateway.router.status().into_iter().map(|s| {
                json!({
                    "id": s.id, "generation": s.generation, "slot": slot_of(&s.id), "healthy": s.healthy,
                    "reason": s.reason, "draining": s.draining, "requests": s.requests,
                    "websockets": s.websockets, "served": s.served, "failed": s.failed,
                })
            });
            json!({
                "service": service, "held": gateway.waiting.count(), "instances": shown.collect::<Vec<_>>(),
            })
        }
        _ => return Err(Refusal::new(Fault::NoSuchPage, format!("the gateway has no page {path}"))),
    };
    Ok((StatusCode::OK, Bytes::from(body.to_string())))
}
