//! Requests that concern jobs, where the gateway owns these: answered here, and never seen by an instance.
use crate::formats::comfy::api::invalid;
use crate::formats::comfy::api::route::{JobsRoute, jobs_route};
use crate::formats::comfy::api::submission::USAGE_SOURCE_HEADER;
use crate::gateway::access::Access;
use crate::gateway::answer::AnswerBody;
use crate::gateway::body::RequestBody;
use crate::gateway::client::{BodyFault, Client};
use crate::gateway::hub_accept::Knock;
use crate::gateway::jobs::answers::{self, Answered, Asked};
use crate::gateway::jobs::relay::{self, Original, Owner};
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::share::Who;
use crate::gateway::shared::Gateway;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use std::sync::Arc;

/// The largest request that concerns jobs: a workflow with a picture in it may have some megabytes.
const LARGEST: u64 = 256 << 20;

/// One request, let in.
pub struct Visit<'a> {
    pub gateway: &'a Arc<Gateway>,
    pub client: &'a Arc<Client>,
    pub who: &'a Who,
    pub limit: u64,
}

/// What a request is about, if it is answered here.
pub fn concerns<'a>(request: &'a Request<RequestBody>) -> Option<JobsRoute<'a>> {
    let route = jobs_route(request.method().as_str(), request.uri().path())?;
    (route == JobsRoute::WebSocket || answers::is_ours(&route)).then_some(route)
}

impl Visit<'_> {
    pub fn socket(
        &self,
        request: &Request<RequestBody>,
        client_side: Option<OnUpgrade>,
        subprotocol: Option<HeaderValue>,
        access: &mut Option<Access>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let knock = Knock { request, client_side, who: self.who, subprotocol, seat: self.client.clone() };
        self.gateway.hub.accept(knock, access)
    }

    /// `original`: the request as it came, for another process that has the jobs by now.
    pub async fn answer(
        &self,
        mut request: Request<RequestBody>,
        original: Option<Original>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let body = match self.read(request.body_mut()).await {
            Ok(body) => body,
            Err(Unread::TooLarge(limit)) => return Ok(response(Answered::of(&invalid::too_large(limit)))),
            Err(Unread::Broken(refusal)) => return Err(refusal),
        };
        let Some(route) = concerns(&request) else {
            return Err(Refusal::new(Fault::GatewayFailed, "this address is not of the jobs"));
        };
        let engine = match (relay::owner(self.gateway).await, original) {
            (Some(Owner::Here(engine)), _) => engine,
            (Some(Owner::Successor), Some(original)) => {
                return relay::ask(self.gateway, original, body).await;
            }
            _ => return Ok(response(Answered::of(&invalid::unavailable("the gateway is about to end")))),
        };
        let usage = request.headers().get(USAGE_SOURCE_HEADER).and_then(|value| value.to_str().ok());
        let asked = Asked {
            route,
            query: request.uri().query().unwrap_or_default(),
            who: self.who,
            usage: usage.map(String::from),
            body,
        };
        // It is large, and moved for each request.
        let answered = Box::pin(answers::answer(self.gateway, &engine, asked)).await;
        Ok(response(answered))
    }

    async fn read(&self, body: &mut RequestBody) -> Result<Bytes, Unread> {
        let limit = self.limit.min(LARGEST);
        match body.read_ahead(limit).await {
            Ok(Some(body)) => Ok(Bytes::from(body)),
            Ok(None) => Err(Unread::TooLarge(limit)),
            Err(_) => Err(match self.client.body_fault() {
                Some(BodyFault::TooLarge) => Unread::TooLarge(limit),
                Some(BodyFault::ClientGone) => {
                    let message = "the client ended within the body of its request";
                    Unread::Broken(Refusal::new(Fault::ClientGone, message))
                }
                None => Unread::Broken(Refusal::new(Fault::ClientSlow, "nothing of the request's body came")),
            }),
        }
    }
}

enum Unread {
    TooLarge(u64),
    Broken(Refusal),
}

fn response(answered: Answered) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(answered.body));
    *response.status_mut() = answered.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(seconds) = answered.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
