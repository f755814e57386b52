//! One request: whether it may pass, whether it is for the gateway itself, and the answer it gets in any
//! case.
use crate::formats::comfy::api::route::{JobsRoute, jobs_route, route};
use crate::gateway::access::Access;
use crate::gateway::answer::AnswerBody;
use crate::gateway::body::RequestBody;
use crate::gateway::client::{Client, Phase};
use crate::gateway::door::Caller;
use crate::gateway::forward::{Forward, too_large};
use crate::gateway::headers;
use crate::gateway::jobs::door::{self, Visit};
use crate::gateway::jobs::relay::Original;
use crate::gateway::pages;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::seating;
use crate::gateway::settings::Active;
use crate::gateway::shared::Gateway;
use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use std::convert::Infallible;
use std::sync::Arc;

pub async fn answer(
    gateway: &Arc<Gateway>,
    client: &Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let active = gateway.active();
    client.begin(!request.body().is_end_stream());
    let mut caller = Caller::of(request.headers(), client.ip, &active);
    let mut access = Some(Access::new(gateway, caller.ip, request.method(), request.uri()));
    // What lets it in is taken out of it; another process that has the jobs by now asks for that again.
    let original = (gateway.jobs().is_some()
        && jobs_route(request.method().as_str(), request.uri().path()).is_some())
    .then(|| Original {
        method: request.method().clone(),
        uri: request.uri().clone(),
        headers: request.headers().clone(),
    });
    let served = match prepare(gateway, client, &active, &mut caller, request) {
        Ok(Prepared::Own(response)) => Ok(response),
        Ok(Prepared::Forward { mut request, client_side }) => match caller.take(gateway, &active) {
            Ok(shares) => {
                let about = door::concerns(&request).map(|about| about == JobsRoute::WebSocket);
                if let Some(access) = &mut access {
                    access.shares = shares;
                }
                if let Some(is_socket) = about.filter(|_| gateway.jobs().is_some()) {
                    let limit = active.settings.limits.body;
                    let visit = Visit { gateway, client, who: &caller.who, limit };
                    let answered = if is_socket {
                        visit.socket(&request, client_side, caller.subprotocol.take(), &mut access)
                    } else {
                        Box::pin(visit.answer(request, original)).await
                    };
                    return Ok(finish(gateway, client, &active, answered, access, caller.silent));
                }
                let uri = request.uri().clone();
                let route = route(request.method().as_str(), uri.path());
                let whose = (caller.who, client_side);
                let mut forward = Forward::new(gateway, client, &active, whose, route, uri.query());
                forward.subprotocol = caller.subprotocol.take();
                forward.run(&mut request, &mut access).await
            }
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    Ok(finish(gateway, client, &active, served, access, caller.silent))
}

/// The end of every answer: its record, and whether the connection goes on.
fn finish(
    gateway: &Arc<Gateway>,
    client: &Arc<Client>,
    active: &Active,
    served: Result<Response<AnswerBody>, Refusal>,
    mut access: Option<Access>,
    silent: bool,
) -> Response<AnswerBody> {
    let mut response = match served {
        Ok(response) => response,
        Err(refusal) => refuse(active, &refusal, access.as_mut()),
    };
    if let Some(mut access) = access {
        access.silent = silent;
        access.received = client.received();
        access.status = response.status().as_u16();
        access.bytes = response.body().size_hint().exact().unwrap_or(0);
        gateway.metrics.own_answer(access.status);
        client.enter(Phase::Idle);
    }
    // Answered before the request's body was read to its end: hyper then closes the connection rather than
    // read the rest, so the client is told not to use it again.
    let last = gateway.is_leaving() || client.is_unread() || client.is_reserve();
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refuse(active: &Active, refusal: &Refusal, access: Option<&mut Access>) -> Response<AnswerBody> {
    let service = &active.settings.service;
    if let Some(access) = access {
        access.failed(refusal.fault);
    }
    let mut response = Response::new(AnswerBody::Own(refusal.body(service)));
    *response.status_mut() = refusal.fault.status();
    *response.headers_mut() = refusal.headers(service);
    response
}

/// What is to be done with a request.
enum Prepared {
    Own(Response<AnswerBody>),
    Forward { request: Request<RequestBody>, client_side: Option<OnUpgrade> },
}

fn prepare(
    gateway: &Gateway,
    client: &Arc<Client>,
    active: &Active,
    caller: &mut Caller,
    mut request: Request<Incoming>,
) -> Result<Prepared, Refusal> {
    let upgrade = request.body().is_end_stream()
        && request.version() == Version::HTTP_11
        && headers::wants_upgrade(request.headers());
    let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    check(&mut head)?;
    let is_own = pages::is_own(head.uri.path());
    if !is_own {
        seating::check(gateway, client)?;
    }
    if !(is_own && pages::is_public(head.uri.path())) {
        caller.admit(gateway, active, &mut head)?;
    }
    if is_own {
        let (status, body) = pages::page(gateway, &caller.who, &head.method, head.uri.path())?;
        let mut response = Response::new(AnswerBody::Own(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(Prepared::Own(response));
    }
    let limit = active.settings.limits.body;
    if body.size_hint().lower() > limit {
        return Err(too_large(limit));
    }
    headers::forward(&mut head.headers, client, caller.trusted, upgrade);
    let mut request = Request::new(RequestBody::new(body, limit, client));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
        (head.method, head.uri, head.headers);
    Ok(Prepared::Forward { request, client_side })
}

/// Refuses what no instance should have to deal with.
fn check(head: &mut Parts) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::new(Fault::BadRequest, "this is not a proxy for other hosts"));
    }
    if let Some(authority) = head.uri.authority() {
        // RFC 9112, 3.2.2: a target in absolute form replaces Host.
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Refusal::new(Fault::BadRequest, "the target's host is not valid"))?;
        head.headers.insert(HOST, host);
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        head.uri = path.parse().map_err(|_| Refusal::new(Fault::BadRequest, "the target is not valid"))?;
    }
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        // RFC 9112, 3.2.
        return Err(Refusal::new(Fault::BadRequest, "a request has exactly one Host header"));
    }
    Ok(())
}
