//! From a request below `/api/v2` to its answer.
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::formats::comfy::api::v2::route::{V2Route, v2_route};
use crate::gateway::access::Access;
use crate::gateway::answer::AnswerBody;
use crate::gateway::body::RequestBody;
use crate::gateway::jobs::door::{Unread, Visit};
use crate::gateway::jobs::relay::{self, Original, Owner};
use crate::gateway::jobs::v2::content::Found;
use crate::gateway::jobs::v2::reply::{self, Answer, Call};
use crate::gateway::jobs::v2::{assets, content, events, jobs, submit};
use crate::gateway::refusal::Refusal;
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};

/// The largest body that is read before it is looked at; an upload is not one.
const LARGEST: u64 = 256 << 20;
const SMALL: u64 = 64 << 10;

pub enum Outcome {
    Answer(Response<AnswerBody>),
    /// An instance has what is asked for: the request as it is to be asked of one.
    View(Request<RequestBody>),
}

pub async fn answer(
    visit: &Visit<'_>,
    mut request: Request<RequestBody>,
    original: Option<Original>,
    access: &mut Option<Access>,
) -> Result<Outcome, Refusal> {
    let path = request.uri().path().to_string();
    let route = v2_route(request.method().as_str(), &path);
    let engine = match (relay::owner(visit.gateway).await, original) {
        (Some(Owner::Here(engine)), _) => engine,
        (Some(Owner::Successor), Some(original)) => {
            if matches!(route, V2Route::Events(_))
                && let Some(engine) = visit.gateway.jobs()
            {
                return Ok(shown(events::none(visit, access, &engine)));
            }
            return match visit.read(request.body_mut()).await {
                Ok(body) => relay::ask(visit.gateway, original, body).await.map(Outcome::Answer),
                Err(unread) => no_body(unread),
            };
        }
        _ => return Ok(shown(Err(Refused::unavailable("the gateway is about to end")))),
    };
    let call = Call { visit, engine: &engine, base: reply::base(request.headers()) };
    if route == V2Route::Upload {
        let headers = request.headers().clone();
        return Ok(shown(assets::upload(&call, &headers, request.body_mut()).await?));
    }
    if let V2Route::Content(id) = &route {
        let asked = (request.method(), request.headers());
        return match content::content(&call, asked, id, access).await {
            Found::Answer(answer) => Ok(shown(answer)),
            Found::At(uri) => {
                *request.uri_mut() = uri;
                Ok(Outcome::View(request))
            }
        };
    }
    let limit = if route == V2Route::Submit { LARGEST } else { SMALL };
    let body = match visit.read_up_to(visit.limit.min(limit), request.body_mut()).await {
        Ok(body) => body,
        Err(unread) => return no_body(unread),
    };
    Ok(shown(Box::pin(answered(&call, &request, route, body, access)).await))
}

async fn answered(
    call: &Call<'_>,
    request: &Request<RequestBody>,
    route: V2Route<'_>,
    body: Bytes,
    access: &mut Option<Access>,
) -> Answer {
    match route {
        V2Route::Submit => submit::submit(call, request.headers(), body).await,
        V2Route::List => jobs::list(call, request.uri().query().unwrap_or_default()).await,
        V2Route::Job(id) => jobs::one(call, &id).await,
        V2Route::Workflow(id) => jobs::workflow(call, &id).await,
        V2Route::Cancel(id) => jobs::cancel(call, &id).await,
        V2Route::Events(id) => events::events(call, &id, access).await,
        V2Route::FromHash => assets::from_hash(call, body).await,
        V2Route::ByHash(hash) => assets::by_hash(call, &hash).await,
        V2Route::Asset(id) => assets::one(call, &id).await,
        V2Route::DeleteAsset(id) => assets::delete(call, &id).await,
        V2Route::Upload | V2Route::Content(_) | V2Route::Unknown => Err(Refused::not_found("operation")),
    }
}

fn no_body(unread: Unread) -> Result<Outcome, Refusal> {
    match unread {
        Unread::TooLarge(limit) => Ok(shown(Err(Refused::too_large(limit)))),
        Unread::Broken(refusal) => Err(refusal),
    }
}

fn shown(answer: Answer) -> Outcome {
    Outcome::Answer(answer.unwrap_or_else(|refused| reply::refused(&refused)))
}

/// What an instance says of a file that it does not have, in this API's words.
pub fn viewed(response: Response<AnswerBody>) -> Response<AnswerBody> {
    match response.status() {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => {
            reply::refused(&Refused::new(404, "output_unavailable", "the bytes of this output are gone"))
        }
        status if status.is_server_error() => {
            reply::refused(&Refused::new(500, "upstream_error", "the instance did not give the file"))
        }
        _ => response,
    }
}
