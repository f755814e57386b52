//! The gateway's own pages, below `/-/` and `/stillframe/`. They never go to an instance.
use crate::gateway::access_log::Level;
use crate::gateway::clock;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::share::Who;
use crate::gateway::shared::Gateway;
use crate::gateway::ticket::LIFE;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

const BELOW: [&str; 2] = ["/-/", "/stillframe/"];
const TICKET: &str = "/stillframe/ticket";

pub fn is_own(path: &str) -> bool {
    BELOW.iter().any(|folder| path.starts_with(folder))
}

/// Whether a page is shown without a key: what monitors the service has none.
pub fn is_public(path: &str) -> bool {
    matches!(path, "/-/health" | "/-/ready")
}

/// A page of ours; its body is JSON.
pub fn page(
    gateway: &Gateway,
    who: &Who,
    method: &Method,
    path: &str,
) -> Result<(StatusCode, Bytes), Refusal> {
    let service = &gateway.active().settings.service;
    if path == TICKET {
        return ticket(gateway, who, method);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::new(Fault::BadRequest, format!("{path} can only be read")));
    }
    let body = match path {
        "/-/health" => json!({ "service": service, "status": "alive" }),
        "/-/ready" => match gateway.router.ready() {
            // Whoever comes is served, after a start.
            0 if gateway.scaling.starts_on_demand() => {
                json!({ "service": service, "status": "ready", "instances": 0 })
            }
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

/// A ticket for whoever brought a key.
fn ticket(gateway: &Gateway, who: &Who, method: &Method) -> Result<(StatusCode, Bytes), Refusal> {
    if *method != Method::POST {
        return Err(Refusal::new(Fault::BadRequest, format!("{TICKET} is asked for with POST")));
    }
    match gateway.tickets.issue(who, clock::now()) {
        Ok(ticket) => {
            let body = json!({ "ticket": ticket, "expires": LIFE / 1_000 });
            Ok((StatusCode::OK, Bytes::from(body.to_string())))
        }
        Err(e) => {
            let message = format!("a ticket cannot be made: {e}");
            gateway.log.note(Level::Error, &message);
            Err(Refusal::new(Fault::GatewayFailed, message))
        }
    }
}
