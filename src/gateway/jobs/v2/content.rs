//! The bytes of an asset: of an upload from our folder, of an output from an instance's `/view`.
use crate::formats::comfy::api::v2::output::{self, Content, Place};
use crate::formats::comfy::api::v2::range::{self, Part};
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::gateway::access::Access;
use crate::gateway::answer::AnswerBody;
use crate::gateway::jobs::inputs;
use crate::gateway::jobs::v2::assets;
use crate::gateway::jobs::v2::outputs;
use crate::gateway::jobs::v2::reply::{Answer, Call, fed, unread};
use crate::jobs::model::State;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode, Uri};
use serde_json::Value;
use std::io::SeekFrom;
use tokio::fs::File;
use tokio::io::AsyncSeekExt;
use tokio::sync::mpsc;

/// Pieces of a file that are read before their client has taken them.
const AHEAD: usize = 2;

pub enum Found {
    Answer(Answer),
    /// An instance has it there.
    At(Uri),
}

pub async fn content(
    call: &Call<'_>,
    (method, headers): (&Method, &HeaderMap),
    id: &str,
    access: &mut Option<Access>,
) -> Found {
    match Place::of_id(id) {
        Some(place) => {
            of_output(call, (method, headers), &place).await.unwrap_or_else(|no| Found::Answer(Err(no)))
        }
        None => Found::Answer(of_upload(call, (method, headers), id, access).await),
    }
}

async fn of_output(
    call: &Call<'_>,
    (method, headers): (&Method, &HeaderMap),
    place: &Place,
) -> Result<Found, Refused> {
    let job = call.job(&place.job).await?;
    let all = if job.state == State::Running {
        call.visit.gateway.hub.lives.look(&job.id, |heard| Value::Object(heard.outputs.clone()))
    } else {
        let history = call.engine.ledger.history(&job.id).await.map_err(unread)?;
        history.map(|mut history| history["outputs"].take())
    };
    let made = output::made(&all.unwrap_or_default());
    let made = made.into_iter().find(|made| made.node == place.node && made.at == place.at);
    let made = made.ok_or_else(|| Refused::not_found("asset"))?;
    match made.content {
        Content::File { folder, subfolder } => {
            let path = outputs::view_path(&made.name, &folder, &subfolder);
            Ok(Found::At(path.parse().map_err(|_| Refused::not_found("asset"))?))
        }
        Content::Here(bytes) => {
            let part = range::part(header(headers, RANGE.as_str()), bytes.len() as u64);
            let about = About { content_type: &made.content_type, name: &made.name, etag: None };
            let (mut response, first, length) = head(part, bytes.len() as u64, &about);
            if method != Method::HEAD && length > 0 {
                let first = usize::try_from(first).unwrap_or(0);
                let last =
                    first.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(bytes.len());
                *response.body_mut() = AnswerBody::Own(Bytes::from(bytes).slice(first..last));
            }
            Ok(Found::Answer(Ok(response)))
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn of_upload(
    call: &Call<'_>,
    (method, headers): (&Method, &HeaderMap),
    id: &str,
    access: &mut Option<Access>,
) -> Answer {
    let asset = assets::uploaded(call, id).await?;
    let gone = || Refused::new(404, "output_unavailable", "the bytes of this asset are gone");
    let mut file = File::open(call.engine.files.path(&asset.hash)).await.map_err(|_| gone())?;
    let size = file.metadata().await.map_err(|_| gone())?.len();
    let etag = format!("\"blake3-{}\"", asset.hash);
    // A part of what it was is no part of what it is.
    let same = header(headers, IF_RANGE.as_str()).is_none_or(|wanted| wanted == etag);
    let part = range::part(header(headers, RANGE.as_str()).filter(|_| same), size);
    let name = asset.file_path.as_deref().and_then(|path| path.rsplit('/').next()).unwrap_or(&asset.id);
    let about = About { content_type: &asset.content_type, name, etag: Some(&etag) };
    let (response, first, length) = head(part, size, &about);
    if method == Method::HEAD || length == 0 {
        return Ok(response);
    }
    file.seek(SeekFrom::Start(first)).await.map_err(|_| gone())?;
    let (to, pieces) = mpsc::channel(AHEAD);
    tokio::spawn(async move { inputs::send_file(file, length, &to).await });
    let (head, _) = response.into_parts();
    let mut whole = fed(call, access, (head.status, Some(length)), pieces)?;
    *whole.headers_mut() = head.headers;
    Ok(whole)
}

struct About<'a> {
    content_type: &'a str,
    name: &'a str,
    etag: Option<&'a str>,
}

/// Status and headers, where it begins, and how long it is.
fn head(part: Part, size: u64, about: &About) -> (Response<AnswerBody>, u64, u64) {
    let mut response = Response::new(AnswerBody::Own(Bytes::new()));
    let (status, first, length, range) = match part {
        Part::Whole => (StatusCode::OK, 0, size, None),
        Part::Some { first, length } => {
            let range = format!("bytes {first}-{}/{size}", first + length - 1);
            (StatusCode::PARTIAL_CONTENT, first, length, Some(range))
        }
        Part::None => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0, Some(format!("bytes */{size}"))),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = |text: &str| {
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
    };
    headers.insert(CONTENT_TYPE, text(about.content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A client's own page must not run as one of the service's.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !is_shown(about.content_type) {
        headers.insert(CONTENT_DISPOSITION, disposition(about.name));
    }
    if let Some(etag) = about.etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        headers.insert(ETAG, etag);
    }
    if let Some(range) = range.and_then(|range| HeaderValue::from_str(&range).ok()) {
        headers.insert(CONTENT_RANGE, range);
    }
    (response, first, length)
}

/// What a browser may show without running anything of it.
fn is_shown(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let media = ["image/", "video/", "audio/"].iter().any(|start| kind.starts_with(start));
    kind == "text/plain" || media && !kind.contains("svg") && !kind.contains("xml")
}

fn disposition(name: &str) -> HeaderValue {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ';
    let name: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    HeaderValue::from_str(&format!("attachment; filename=\"{name}\""))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let about = About { content_type: "image/png", name: "x", etag: Some("\"e\"") };
        let (whole, first, length) = head(Part::Whole, 10, &about);
        assert_eq!((whole.status().as_u16(), first, length), (200, 0, 10));
        assert!(!whole.headers().contains_key(CONTENT_DISPOSITION));
        let (part, first, length) = head(Part::Some { first: 2, length: 3 }, 10, &about);
        assert_eq!((part.status().as_u16(), first, length), (206, 2, 3));
        assert_eq!(part.headers()[CONTENT_RANGE], "bytes 2-4/10");
        assert_eq!(part.headers()[CONTENT_LENGTH], "3");
        let (none, ..) = head(Part::None, 10, &about);
        assert_eq!(none.status().as_u16(), 416);
        assert_eq!(none.headers()[CONTENT_RANGE], "bytes */10");
    }

    #[test]
    fn what_a_browser_would_run_is_a_download() {
        for (kind, shown) in [
            ("image/png", true),
            ("IMAGE/SVG+XML", false),
            ("text/html", false),
            ("text/plain; charset=x", true),
        ] {
            assert_eq!(is_shown(kind), shown, "{kind}");
        }
        assert_eq!(disposition("a\"b\r\né.html"), "attachment; filename=\"a_b___.html\"");
    }
}
