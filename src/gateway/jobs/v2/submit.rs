//! `POST /api/v2/jobs`: the files that a workflow names are found, and then it goes the way of every job.
use crate::formats::comfy::api::v2::output::{self, Content, Place};
use crate::formats::comfy::api::v2::refusal::{self, Refused};
use crate::formats::comfy::api::v2::{asset, route, submission};
use crate::gateway::jobs::accept::{self, NotAccepted, Wanted, With};
use crate::gateway::jobs::v2::reply::{Answer, Call, json, unread};
use crate::gateway::jobs::v2::view;
use crate::jobs::asset::{FindAsset, Used};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderValue, LOCATION};
use std::collections::{BTreeMap, BTreeSet};

pub const KEY: &str = "idempotency-key";

pub async fn submit(call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Answer {
    let key = headers.get(KEY).map(|key| submission::key(key.as_bytes())).transpose()?;
    let mut asked = submission::parse(&body)?;
    drop(body);
    let (names, files) = resolve(call, &asked.assets).await?;
    submission::resolve(&mut asked.submission.prompt, &names);
    let wanted = Wanted {
        submission: asked.submission,
        owner: call.owner(),
        with: With { key, labels: asked.labels, files },
    };
    let job = match accept::submit(call.visit.gateway, call.engine, wanted).await {
        Ok(accepted) => accepted.job,
        Err(NotAccepted::Invalid(invalid)) => return Err(refusal::of_invalid(&invalid)),
        Err(NotAccepted::KeyUsed(job)) => return Err(Refused::key_reuse(&job)),
        Err(NotAccepted::File(why)) => return Err(Refused::new(422, "missing_asset", why)),
    };
    // It may have begun by now.
    let job = call.engine.job(&job.id).unwrap_or(job);
    let mut response = json(StatusCode::CREATED, &view::job(call, &job).await?)?;
    if let Ok(location) = HeaderValue::from_str(&route::job(&job.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

type Names = BTreeMap<String, String>;

/// What ComfyUI knows each by, and which of them an instance must be given.
async fn resolve(call: &Call<'_>, ids: &BTreeSet<String>) -> Result<(Names, Vec<Used>), Refused> {
    let (mut names, mut files, mut missing) = (BTreeMap::new(), Vec::new(), Vec::new());
    for id in ids {
        let name = match Place::of_id(id) {
            Some(place) => of_output(call, &place).await?,
            None => match uploaded(call, id).await? {
                Some(used) => {
                    let name = used.name.clone();
                    files.push(used);
                    Some(name)
                }
                None => None,
            },
        };
        match name {
            Some(name) => drop(names.insert(id.clone(), name)),
            None => missing.push(id.clone()),
        }
    }
    if missing.is_empty() { Ok((names, files)) } else { Err(submission::missing(&missing)) }
}

async fn uploaded(call: &Call<'_>, id: &str) -> Result<Option<Used>, Refused> {
    let find = FindAsset { id: Some(id.into()), owner: call.scope(), hash: None };
    let found = call.engine.ledger.assets(find).await.map_err(unread)?;
    Ok(found.into_iter().next().map(|found| Used {
        name: asset::input_name(&found.hash, found.file_path.as_deref()),
        asset: found.id,
        hash: found.hash,
        size: found.size,
    }))
}

/// The instances share their outputs, and ComfyUI has a way to name one as an input.
async fn of_output(call: &Call<'_>, place: &Place) -> Result<Option<String>, Refused> {
    let Ok(job) = call.job(&place.job).await else { return Ok(None) };
    let history = call.engine.ledger.history(&job.id).await.map_err(unread)?;
    let made = history.map(|history| output::made(&history["outputs"])).unwrap_or_default();
    let made = made.into_iter().find(|made| made.node == place.node && made.at == place.at);
    let Some((Content::File { folder, subfolder }, name)) = made.map(|made| (made.content, made.name)) else {
        return Ok(None);
    };
    // A temporary file is one instance's, and gone with it.
    if folder != "output" && folder != "input" {
        return Ok(None);
    }
    let path = if subfolder.is_empty() { name } else { format!("{subfolder}/{name}") };
    Ok(Some(if folder == "input" { path } else { format!("{path} [{folder}]") }))
}
