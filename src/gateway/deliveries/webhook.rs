//! One try of a webhook, by Standard Webhooks: signed anew each time, under the id that it keeps.
use crate::formats::webhook::{ID, Key, SIGNATURE, TIMESTAMP};
use crate::gateway::deliveries::outbound::{Answer, Outbound, Progress, To};
use crate::jobs::delivery::Delivery;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde_json::Value;

/// `uploads`: what became of the job's files.
pub fn body(delivery: &Delivery, uploads: Value) -> Bytes {
    let mut payload = delivery.content.clone();
    if uploads.as_array().is_some_and(|uploads| !uploads.is_empty()) && payload["data"].is_object() {
        payload["data"]["uploads"] = uploads;
    }
    Bytes::from(payload.to_string())
}

/// `now`: seconds since 1970.
pub async fn send(
    outbound: &Outbound,
    to: &To<'_>,
    delivery: &Delivery,
    body: Bytes,
    secret: &str,
    now: u64,
) -> Result<Answer, String> {
    let key = Key::parse(secret).map_err(|why| format!("the secret of [service.jobs.webhooks] {why}"))?;
    let signature = key.sign(&delivery.id, now, &body);
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(TIMESTAMP, HeaderValue::from(now));
    for (name, value) in [(ID, &delivery.id), (SIGNATURE, &signature)] {
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| "its id is no value of a header")?);
    }
    outbound.send(to, request, &Progress::default()).await
}
