//! Files that jobs need, on their way into an instance's input folder: through its own upload, since the gateway cannot
//! write there. A file is named by its content, so that one that is there is the right one, whoever put it there.
use crate::formats::comfy::api::paths;
use crate::gateway::body::RequestBody;
use crate::gateway::instance::Instance;
use crate::gateway::jobs::call::{self, Answer, Failed};
use crate::gateway::jobs::files::Files;
use crate::jobs::asset::Used;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

/// For a large file on a slow disk.
const UPLOAD: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(10);
const PIECE: usize = 256 << 10;
const BOUNDARY: &str = "stillframe-asset-5f1ce284a1d94b0f";

#[derive(Debug)]
pub enum NotPlaced {
    /// The file is no longer kept.
    Missing(String),
    /// The instance does not take it.
    Refused(String),
    /// It has troubles of its own, with this status.
    Failed(u16),
    /// It could not be asked.
    Later(String),
}

/// All of these are in the instance's input folder when this returns Ok.
pub async fn place(files: &Files, instance: &Instance, used: &[Used]) -> Result<(), NotPlaced> {
    for file in used {
        if !is_there(instance, &file.name, file.size).await? {
            let to = To { folder: "", name: &file.name, overwrite: true };
            upload(files, instance, &file.hash, file.size, &to).await?;
        }
    }
    Ok(())
}

/// Under the name that its client gave it, unless another file has that name already.
pub async fn place_as(
    files: &Files,
    instance: &Instance,
    (hash, size): (&str, u64),
    path: &str,
) -> Result<(), NotPlaced> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    upload(files, instance, hash, size, &To { folder, name, overwrite: false }).await
}

async fn is_there(instance: &Instance, name: &str, size: u64) -> Result<bool, NotPlaced> {
    let path = format!("{}?type=input&filename={name}", paths::VIEW);
    match call::ask(instance, Method::HEAD, &path, None, LOOK).await {
        Ok(answer) => Ok(answer.status.is_success() && answer.length == Some(size)),
        Err(why) => Err(later(why)),
    }
}

fn later(why: Failed) -> NotPlaced {
    NotPlaced::Later(why.to_string())
}

/// Where it is to go.
struct To<'a> {
    folder: &'a str,
    name: &'a str,
    overwrite: bool,
}

async fn upload(
    files: &Files,
    instance: &Instance,
    hash: &str,
    size: u64,
    to: &To<'_>,
) -> Result<(), NotPlaced> {
    let path = files.path(hash);
    let missing = |why: &dyn std::fmt::Display| {
        NotPlaced::Missing(format!("the bytes of asset {hash} are gone: {why}"))
    };
    let file = File::open(&path).await.map_err(|e| missing(&e))?;
    let length = file.metadata().await.map_err(|e| missing(&e))?.len();
    if length != size {
        return Err(missing(&format!("{length} bytes of {size} are there")));
    }
    let answer = call::send(instance, request(file, length, to), UPLOAD).await.map_err(later)?;
    let refused = || {
        let status = answer.status.as_u16();
        let hint = if status == 413 { " (ComfyUI's --max-upload-size)" } else { "" };
        NotPlaced::Refused(format!("{} answered {status} to an upload of {size} bytes{hint}", instance.id()))
    };
    match &answer {
        Answer { status, .. } if status.is_server_error() => Err(NotPlaced::Failed(status.as_u16())),
        Answer { status, .. } if !status.is_success() => Err(refused()),
        // Without `overwrite` it may have given it another name.
        answer if to.overwrite && answer.json().is_some_and(|json| json["name"] != to.name) => Err(refused()),
        _ => Ok(()),
    }
}

fn request(file: File, length: u64, to: &To) -> Request<RequestBody> {
    let quoted = to.name.replace('"', "%22");
    let mut head = String::new();
    for (name, value) in
        [("type", "input"), ("subfolder", to.folder), ("overwrite", if to.overwrite { "true" } else { "" })]
    {
        if !value.is_empty() {
            head += &format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
    }
    head += &format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{quoted}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let whole = head.len() as u64 + length + tail.len() as u64;
    let (to, pieces) = mpsc::channel(2);
    tokio::spawn(pour(file, length, (head.into(), tail.into()), to));
    let mut request = Request::new(RequestBody::fed(pieces));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static(paths::UPLOAD_IMAGE);
    let headers = request.headers_mut();
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(&kind).unwrap_or(HeaderValue::from_static("")));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(whole));
    request
}

/// Ends early where it cannot go on: the body then has fewer bytes than it said, which is no whole request.
async fn pour(file: File, length: u64, (head, tail): (Bytes, Bytes), to: mpsc::Sender<Bytes>) {
    if to.send(head).await.is_err() {
        return;
    }
    if send_file(file, length, &to).await {
        let _ = to.send(tail).await;
    }
}

/// So many bytes of a file, from where it stands. Whether all went.
pub async fn send_file(mut file: File, mut left: u64, to: &mpsc::Sender<Bytes>) -> bool {
    while left > 0 {
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        let Ok(read) = file.read(&mut piece).await else { return false };
        if read == 0 {
            return false;
        }
        piece.truncate(read);
        left -= read as u64;
        if to.send(piece.into()).await.is_err() {
            return false;
        }
    }
    true
}
