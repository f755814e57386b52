//! What a job made, with the size of each, which only whoever has the files can tell.
use crate::formats::comfy::api::paths;
use crate::formats::comfy::api::v2::output::{Content, Made, Output, Place, made};
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::formats::comfy::api::v2::route;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::accept;
use crate::gateway::jobs::call;
use crate::gateway::jobs::engine::now;
use crate::gateway::jobs::v2::reply::{Call, unread};
use crate::jobs::model::{Job, State};
use crate::sys::clock::rfc3339_ms;
use hyper::Method;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(2);
/// A link is as good as the job is kept; this is what is said of it.
pub const LINK_MS: u64 = 86_400_000;

/// Of a job that runs, those that it has made so far.
pub async fn of(call: &Call<'_>, job: &Job) -> Result<Vec<Output>, Refused> {
    let all = match job.state {
        State::Running => {
            call.visit.gateway.hub.lives.look(&job.id, |heard| Value::Object(heard.outputs.clone()))
        }
        state if state.is_over() => {
            let history = call.engine.ledger.history(&job.id).await.map_err(unread)?;
            history.map(|mut history| history["outputs"].take())
        }
        _ => None,
    };
    Ok(shown(call, job, made(&all.unwrap_or_default())).await)
}

pub async fn shown(call: &Call<'_>, job: &Job, all: Vec<Made>) -> Vec<Output> {
    let mut asked = whom(call, job);
    let mut shown = Vec::with_capacity(all.len());
    for made in all {
        let id = Place { job: job.id.clone(), node: made.node.clone(), at: made.at }.id();
        let size = match (&made.content, call.engine.files.size(&id)) {
            (Content::Here(content), _) => content.len() as u64,
            (_, Some(known)) => known,
            (Content::File { folder, subfolder }, None) => {
                let path = view_path(&made.name, folder, subfolder);
                let answer = match &asked {
                    Some(instance) => call::ask(instance, Method::HEAD, &path, None, LOOK).await.ok(),
                    None => None,
                };
                match answer {
                    Some(answer) if answer.status.is_success() => {
                        let size = answer.length.unwrap_or(0);
                        call.engine.files.set_size(id.clone(), size);
                        size
                    }
                    // Gone, or in no instance's reach.
                    Some(_) => 0,
                    None => {
                        // One that does not answer is not asked for each.
                        asked = None;
                        0
                    }
                }
            }
        };
        shown.push(Output {
            node_id: made.node,
            name: made.name,
            kind: made.kind,
            content_type: made.content_type,
            size_bytes: size,
            hash: None,
            url: format!("{}{}", call.base, route::content(&id)),
            url_expires_at: rfc3339_ms(now() + LINK_MS),
            job_id: job.id.clone(),
            id,
        });
    }
    shown
}

/// Its own instance, which alone has its temporary files; else any.
fn whom(call: &Call<'_>, job: &Job) -> Option<Arc<Instance>> {
    let all = call.visit.gateway.router.all();
    let own = all.into_iter().map(|(instance, _)| instance).find(|i| Some(i.id()) == job.instance.as_deref());
    own.filter(|instance| instance.is_healthy()).or_else(|| accept::an_instance(call.visit.gateway))
}

pub fn view_path(name: &str, folder: &str, subfolder: &str) -> String {
    let (name, folder, subfolder) = (escape(name), escape(folder), escape(subfolder));
    format!("{}?filename={name}&type={folder}&subfolder={subfolder}", paths::VIEW)
}

/// For a value of a query.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/');
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_query() {
        let path = view_path("a b&c=é#.png", "output", "x/y");
        assert_eq!(path, "/view?filename=a%20b%26c%3D%C3%A9%23.png&type=output&subfolder=x/y");
    }
}
