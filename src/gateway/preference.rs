//! Which instance a request prefers, since ComfyUI keeps things in one process (see `affinity`).
use crate::formats::comfy::api::ids;
use crate::formats::comfy::api::route::Route;
use crate::gateway::affinity::{PROMPT_BODY, SMALL_BODY};
use crate::gateway::body::{Broken, RequestBody};
use crate::gateway::headers;
use crate::gateway::key::{Key, key};
use crate::gateway::router::Preference;
use crate::gateway::shared::Gateway;
use hyper::Request;
use std::sync::Arc;

/// The client of a WebSocket request.
pub fn client_key(route: &Route, query: Option<&str>) -> Option<Key> {
    match route {
        Route::WebSocket => ids::client_id(query?).map(|id| key(&id)),
        _ => None,
    }
}

/// Asked only when there is more than one instance to choose from.
pub async fn of(
    gateway: &Gateway,
    route: &Route<'_>,
    client: Option<Key>,
    request: &mut Request<RequestBody>,
) -> Result<Preference, Broken> {
    let mut preference = Preference { slot: headers::slot(request.headers()), ..Preference::default() };
    match route {
        Route::View => {
            if let (Some(engine), Some(query)) = (gateway.jobs(), request.uri().query()) {
                preference.holder = engine.made.maker(query);
            }
        }
        Route::Job(id) => preference.holder = gateway.affinity.prompt(id),
        Route::Jobs => {
            if let Some(body) = request.body_mut().read_ahead(SMALL_BODY).await? {
                preference.holder = holder(gateway, &ids::jobs_of(&body));
            }
        }
        // A browser has a slot, and its WebSocket went there too.
        Route::Prompt if preference.slot.is_none() => {
            if let Some(body) = request.body_mut().read_ahead(PROMPT_BODY).await?
                && let Some(client) = ids::client_of(&body)
            {
                preference.instance = gateway.affinity.client(key(&client));
            }
        }
        // A client that reconnects goes where its jobs are.
        Route::WebSocket if preference.slot.is_none() => {
            preference.instance = client.and_then(|client| gateway.affinity.client(client));
        }
        _ => {}
    }
    Ok(preference)
}

/// The instance of the first known job: a request that names jobs of several instances can go to only one.
fn holder(gateway: &Gateway, jobs: &[String]) -> Option<Arc<str>> {
    jobs.iter().find_map(|id| gateway.affinity.prompt(id))
}
