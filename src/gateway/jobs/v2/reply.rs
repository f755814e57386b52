//! What is asked, and answers in their form.
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::gateway::access::Access;
use crate::gateway::answer::{AnswerBody, Fed};
use crate::gateway::client::Phase;
use crate::gateway::jobs::door::Visit;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::owner;
use crate::gateway::refusal::{Fault, Refusal};
use crate::jobs::model::{Job, Owner};
use crate::sys::error::Error;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

pub type Answer = Result<Response<AnswerBody>, Refused>;

/// A request on its way to its answer.
pub struct Call<'a> {
    pub visit: &'a Visit<'a>,
    pub engine: &'a Arc<Engine>,
    /// Where the client reached us: a link to a file must be whole.
    pub base: String,
}

impl Call<'_> {
    /// Whose jobs and assets are seen. Without keys there are no accounts, and everybody sees all.
    pub fn scope(&self) -> Option<Owner> {
        self.visit.who.key.map(|_| self.owner())
    }

    pub fn owner(&self) -> Owner {
        owner::owner(self.visit.who, None)
    }

    pub fn may_see(&self, job: &Job) -> bool {
        self.scope().is_none_or(|owner| owner == job.owner)
    }

    /// One that there is, and that is the caller's.
    pub async fn job(&self, id: &str) -> Result<Job, Refused> {
        let job = match self.engine.job(id) {
            Some(job) => Some(job),
            None => self.engine.ledger.job(id).await.map_err(unread)?,
        };
        job.filter(|job| self.may_see(job)).ok_or_else(|| Refused::not_found("job"))
    }
}

/// As its proxy says, or as it came.
pub fn base(headers: &HeaderMap) -> String {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = match text(&HeaderName::from_static("x-forwarded-proto")) {
        Some("https") => "https",
        _ => "http",
    };
    let host =
        text(&HeaderName::from_static("x-forwarded-host")).or_else(|| text(&HOST)).unwrap_or("localhost");
    format!("{scheme}://{host}")
}

pub fn unread(e: Error) -> Refused {
    Refused::unavailable(e.full())
}

pub fn json(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(AnswerBody::Own(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(AnswerBody::Own(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

pub fn refused(refused: &Refused) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(Bytes::from(refused.body().to_string())));
    *response.status_mut() =
        StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = refused.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What the gateway refuses whatever it is about, in this API's envelope.
pub fn of_refusal(refusal: &Refusal, service: &str) -> Response<AnswerBody> {
    let code = match refusal.fault {
        Fault::NotAllowed => "unauthorized",
        Fault::CrossSite | Fault::UnknownHost => "forbidden",
        Fault::TooManyRequests | Fault::TooManyWrongKeys | Fault::TooManyConnections => "rate_limited",
        Fault::BodyTooLarge => "request_too_large",
        Fault::NoSuchPage => "not_found",
        Fault::BadRequest | Fault::ClientGone | Fault::ClientSlow => "invalid_request",
        Fault::NoInstance | Fault::TooManyWaiting => "service_unavailable",
        _ => "upstream_error",
    };
    let refusal_of = Refused::new(refusal.fault.status().as_u16(), code, refusal.message.clone());
    let mut response = refused(&refusal_of);
    response.headers_mut().extend(refusal.headers(service));
    response
}

/// An answer whose pieces come later.
pub fn fed(
    call: &Call<'_>,
    access: &mut Option<Access>,
    (status, length): (StatusCode, Option<u64>),
    pieces: mpsc::Receiver<Bytes>,
) -> Answer {
    let mut access = access.take().ok_or_else(|| Refused::unavailable("the request is over"))?;
    access.status = status.as_u16();
    call.visit.gateway.metrics.own_answer(access.status);
    let client = call.visit.client.clone();
    client.enter(Phase::Stream);
    let fed = Fed { pieces, left: length, access, client, over: length == Some(0) };
    let mut response = Response::new(AnswerBody::Fed(Box::new(fed)));
    *response.status_mut() = status;
    Ok(response)
}
