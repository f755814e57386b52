//! Assets: a file and its record. The file is on disk before its record is, and the record before its client hears of it.
use crate::formats::comfy::api::v2::multipart::{self, Event, Multipart};
use crate::formats::comfy::api::v2::output::{self, Place};
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::formats::comfy::api::v2::{asset, route};
use crate::gateway::body::RequestBody;
use crate::gateway::jobs::accept;
use crate::gateway::jobs::door::Unread;
use crate::gateway::jobs::engine::now;
use crate::gateway::jobs::files::Received;
use crate::gateway::jobs::inputs;
use crate::gateway::jobs::v2::outputs;
use crate::gateway::jobs::v2::reply::{Answer, Call, empty, json, unread};
use crate::gateway::refusal::Refusal;
use crate::jobs::asset::{Asset, FindAsset};
use crate::jobs::store::Write;
use crate::sys::clock::rfc3339_ms;
use crate::sys::error::Kind;
use crate::sys::random;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use std::collections::BTreeMap;

const FILE: &str = "file";
const UNKNOWN: &str = "application/octet-stream";

/// What a form said of its file.
struct Form {
    received: Received,
    name: Option<String>,
    content_type: Option<String>,
    fields: BTreeMap<String, String>,
}

/// A body that broke off is the gateway's to refuse.
pub async fn upload(call: &Call<'_>, headers: &HeaderMap, body: &mut RequestBody) -> Result<Answer, Refusal> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(boundary) = multipart::boundary(content_type) else {
        return Ok(Err(Refused::new(422, "invalid_request", "an upload is multipart/form-data")));
    };
    let form = match receive(call, &boundary, body).await? {
        Ok(form) => form,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(keep(call, form).await)
}

async fn receive(
    call: &Call<'_>,
    boundary: &str,
    body: &mut RequestBody,
) -> Result<Result<Form, Refused>, Refusal> {
    let wrong = |why: &str| Refused::new(422, "invalid_request", format!("the form cannot be read: {why}"));
    let mut form = Multipart::new(boundary, FILE);
    let (mut receiving, mut received) = (None, None);
    let (mut name, mut content_type) = (None, None);
    loop {
        let piece = match body.piece().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(_) => {
                return match call.visit.broken(call.visit.limit) {
                    Unread::TooLarge(limit) => Ok(Err(Refused::too_large(limit))),
                    Unread::Broken(refusal) => Err(refusal),
                };
            }
        };
        let events = match form.feed(&piece) {
            Ok(events) => events,
            Err(why) => return Ok(Err(wrong(why.0))),
        };
        for event in events {
            match event {
                Event::File { .. } if received.is_some() => return Ok(Err(wrong("it has two files"))),
                Event::File { name: its, content_type: kind } => {
                    (name, content_type) = (its, kind);
                    receiving = Some(call.engine.files.receive());
                }
                Event::Data(data) => {
                    if let Some(to) = &receiving
                        && !to.take(data.into()).await
                    {
                        return Ok(Err(not_written(receiving.take()).await));
                    }
                }
                Event::FileEnd => {
                    if let Some(all) = receiving.take() {
                        match all.done().await {
                            Ok(all) => received = Some(all),
                            Err(e) => return Ok(Err(unread(e))),
                        }
                    }
                }
            }
        }
    }
    if !form.is_over() {
        return Ok(Err(wrong("it has no end")));
    }
    let Some(received) = received else { return Ok(Err(wrong("it has no file"))) };
    Ok(Ok(Form { received, name, content_type, fields: form.fields }))
}

async fn not_written(receiving: Option<crate::gateway::jobs::files::Receiving>) -> Refused {
    match receiving {
        Some(receiving) => match receiving.done().await {
            Err(e) => unread(e),
            Ok(_) => Refused::unavailable("the file was not written"),
        },
        None => Refused::unavailable("the file was not written"),
    }
}

async fn keep(call: &Call<'_>, form: Form) -> Answer {
    let Form { received, name, content_type, mut fields } = form;
    let path = fields.remove("file_path").or(name).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Refused::new(422, "invalid_request", "file_path is missing"))?;
    let path = asset::file_path(&path)?;
    let content_type =
        fields.remove("content_type").or(content_type).and_then(|text| asset::content_type(&text));
    let content_type = content_type.unwrap_or_else(|| output::content_type(&path).to_string());
    let lasts = fields.get("expires_in").map(|text| asset::lasts(text)).transpose()?;
    if let Some(expected) = fields.get("expected_hash")
        && asset::hash(expected).as_ref() != Some(&received.hash)
    {
        let message = format!("the bytes that came have the hash {}", asset::hash_text(&received.hash));
        return Err(Refused::new(409, "hash_mismatch", message));
    }
    if let Some(trouble) = call.engine.ledger.trouble() {
        return Err(Refused::unavailable(trouble));
    }
    let (hash, size) = (received.hash.clone(), received.size);
    let _turn = call.engine.files.turn.lock().await;
    let new = call.engine.files.keep(received).await.map_err(unread)?;
    let (kept, _) = record(call, (&hash, size), Some(path), content_type, lasts).await?;
    drop(_turn);
    put_in_place(call, &kept).await;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    json(status, &shown(call, &kept, Some(new)))
}

/// The caller's record of these bytes at this place: one that there is, touched, or a new one. `turn` is held.
async fn record(
    call: &Call<'_>,
    (hash, size): (&str, u64),
    path: Option<String>,
    content_type: String,
    lasts: Option<u64>,
) -> Result<(Asset, bool), Refused> {
    let owner = call.owner();
    let find = FindAsset { hash: Some(hash.into()), owner: Some(owner.clone()), id: None };
    let same =
        call.engine.ledger.assets(find).await.map_err(unread)?.into_iter().find(|a| a.file_path == path);
    let new = same.is_none();
    let lasts = lasts.map(|seconds| seconds * 1000);
    let asset = match same {
        // Who asks again keeps it longer, never shorter.
        Some(same) => Asset { touched: now(), lasts: longer(same.lasts, lasts), ..same },
        None => Asset {
            id: random::uuid4().map_err(unread)?,
            owner,
            hash: hash.into(),
            size,
            content_type,
            file_path: path,
            created: now(),
            touched: now(),
            lasts,
        },
    };
    call.engine.ledger.write(Write::Asset(Box::new(asset.clone()))).await.map_err(unread)?;
    Ok((asset, new))
}

/// None is as long as the service keeps what it keeps.
fn longer(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    before.zip(now).map(|(before, now)| before.max(now))
}

/// A workflow may name it as its client does, where no other file has that name: the reference is the safe way.
async fn put_in_place(call: &Call<'_>, asset: &Asset) {
    let Some(path) = asset.file_path.as_deref().filter(|path| !path.starts_with("models/")) else { return };
    let path = path.strip_prefix("input/").unwrap_or(path);
    if let Some(instance) = accept::an_instance(call.visit.gateway) {
        // It stays in our folder, and a job that refers to it gets it from there.
        let _ = inputs::place_as(&call.engine.files, &instance, (&asset.hash, asset.size), path).await;
    }
}

pub async fn from_hash(call: &Call<'_>, body: Bytes) -> Answer {
    let asked = asset::from_hash(&body)?;
    let _turn = call.engine.files.turn.lock().await;
    let source = any_of(call, &asked.hash).await?.ok_or_else(asset::no_blob)?;
    let content_type = match &asked.file_path {
        Some(path) if output::content_type(path) != UNKNOWN => output::content_type(path).to_string(),
        _ => source.content_type,
    };
    let path = asked.file_path.or(source.file_path);
    let (kept, new) = record(call, (&asked.hash, source.size), path, content_type, asked.lasts).await?;
    drop(_turn);
    if new {
        put_in_place(call, &kept).await;
    }
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    json(status, &shown(call, &kept, Some(false)))
}

/// A record of these bytes that the caller may see, if they are there.
async fn any_of(call: &Call<'_>, hash: &str) -> Result<Option<Asset>, Refused> {
    let find = FindAsset { hash: Some(hash.into()), owner: call.scope(), id: None };
    let found = call.engine.ledger.assets(find).await.map_err(unread)?.into_iter().next();
    match found {
        Some(found) if call.engine.files.has(&found.hash, found.size).await => Ok(Some(found)),
        _ => Ok(None),
    }
}

pub async fn by_hash(call: &Call<'_>, text: &str) -> Answer {
    let hash = asset::hash(text).ok_or_else(asset::no_blob)?;
    any_of(call, &hash).await?.ok_or_else(asset::no_blob)?;
    empty(StatusCode::OK)
}

pub async fn uploaded(call: &Call<'_>, id: &str) -> Result<Asset, Refused> {
    let find = FindAsset { id: Some(id.into()), owner: call.scope(), hash: None };
    let found = call.engine.ledger.assets(find).await.map_err(unread)?;
    found.into_iter().next().ok_or_else(|| Refused::not_found("asset"))
}

pub async fn one(call: &Call<'_>, id: &str) -> Answer {
    let Some(place) = Place::of_id(id) else {
        let asset = uploaded(call, id).await?;
        return json(StatusCode::OK, &shown(call, &asset, None));
    };
    let job = call.job(&place.job).await?;
    let found = outputs::of(call, &job).await?.into_iter().find(|output| output.id == id);
    let output = found.ok_or_else(|| Refused::not_found("asset"))?;
    let ended = job.ended.unwrap_or_else(now);
    json(
        StatusCode::OK,
        &serde_json::json!({
            "id": output.id, "hash": null, "size_bytes": output.size_bytes, "content_type": output.content_type,
            "file_path": output.name, "created_at": rfc3339_ms(ended), "url": output.url,
            "url_expires_at": output.url_expires_at, "job_id": job.id,
            "expires_at": rfc3339_ms(ended.saturating_add(call.engine.settings().keep.age_ms).min(LAST)),
        }),
    )
}

pub async fn delete(call: &Call<'_>, id: &str) -> Answer {
    if let Some(place) = Place::of_id(id) {
        call.job(&place.job).await?;
        return Err(Refused::new(409, "asset_in_use", "this asset is a job's: it goes with the job"));
    }
    let asset = uploaded(call, id).await?;
    let _turn = call.engine.files.turn.lock().await;
    call.engine.ledger.write(Write::Discard { id: asset.id }).await.map_err(|e| match e.kind {
        Kind::Input => Refused::new(409, "asset_in_use", "this asset is needed still"),
        _ => unread(e),
    })?;
    let unknown = call.engine.ledger.unknown_hashes(vec![asset.hash]).await.map_err(unread)?;
    // What cannot be taken away now is at the next look.
    let _ = call.engine.files.remove(unknown).await;
    empty(StatusCode::NO_CONTENT)
}

/// The end of the year 9999.
const LAST: u64 = 253_402_300_799_000;

fn shown(call: &Call<'_>, kept: &Asset, new: Option<bool>) -> Value {
    let lasts = kept.lasts.unwrap_or(call.engine.settings().keep.age_ms);
    asset::asset(&asset::Asset {
        id: &kept.id,
        hash: &kept.hash,
        size: kept.size,
        content_type: &kept.content_type,
        file_path: kept.file_path.as_deref(),
        new,
        created: rfc3339_ms(kept.created),
        url: format!("{}{}", call.base, route::content(&kept.id)),
        url_expires: rfc3339_ms(now() + outputs::LINK_MS),
        expires: rfc3339_ms(kept.touched.saturating_add(lasts).min(LAST)),
    })
}
