//! A file as an instance's `/view` has it, on its way to somebody else: read as fast as it is taken there.
use crate::formats::comfy::api::paths;
use crate::formats::sigv4::encoded_path;
use crate::gateway::body::RequestBody;
use crate::gateway::deliveries::outbound::Progress;
use crate::gateway::instance::Instance;
use crate::gateway::link::{ConnectError, Link, SendError};
use crate::gateway::shared::Gateway;
use hyper::Request;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(2);

pub struct File {
    link: Link,
    body: Incoming,
    progress: Arc<Progress>,
    pub length: u64,
    pub kind: Option<HeaderValue>,
}

/// Opens the file of an upload.
pub async fn open(gateway: &Gateway, file: &Value, progress: &Arc<Progress>) -> Result<File, String> {
    let text = |name: &str| file[name].as_str().unwrap_or_default().to_string();
    let path = format!(
        "{}?filename={}&subfolder={}&type={}",
        paths::VIEW,
        encoded_path(&text("filename")),
        encoded_path(&text("subfolder")),
        encoded_path(&text("type"))
    );
    let mut why = "no instance has it".to_string();
    for instance in holders(gateway, &text("instance")) {
        match ask(&instance, &path, progress).await {
            Ok(file) => return Ok(file),
            Err(e) => why = format!("{}: {e}", instance.id()),
        }
    }
    Err(why)
}

/// The instance that made it. Once that is gone, those that have its pictures since.
fn holders(gateway: &Gateway, maker: &str) -> Vec<Arc<Instance>> {
    let all = gateway.router.all();
    let own: Vec<Arc<Instance>> = all
        .iter()
        .map(|(instance, _)| instance.clone())
        .filter(|i| i.id() == maker && !i.is_closed())
        .collect();
    if !own.is_empty() {
        return own;
    }
    all.into_iter().map(|(instance, _)| instance).filter(|i| i.is_healthy()).collect()
}

async fn ask(instance: &Instance, path: &str, progress: &Arc<Progress>) -> Result<File, String> {
    let mut link = match Link::connect(&instance.target.address, CONNECT).await {
        Ok(link) => link,
        Err(ConnectError::Refused) => return Err("nothing listens there".into()),
        Err(ConnectError::Slow) => return Err("no connection".into()),
        Err(ConnectError::Other(e)) => return Err(format!("cannot connect: {e}")),
    };
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = path.parse().map_err(|_| "its name is no part of an address")?;
    request.headers_mut().insert(HOST, instance.host.clone());
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("stillframe-gateway"));
    let response = match link.send(request, || None::<()>).await {
        Ok(response) => response,
        Err(SendError::Ended(why) | SendError::Garbled(why)) => return Err(why),
        Err(SendError::NotSent(_) | SendError::Stopped(())) => {
            return Err("the connection ended at once".into());
        }
    };
    if !response.status().is_success() {
        return Err(format!("/view answered {}", response.status().as_u16()));
    }
    let kind = response.headers().get(CONTENT_TYPE).cloned();
    let body = response.into_body();
    let length = body.size_hint().exact().ok_or("/view does not say how long it is")?;
    progress.moved();
    Ok(File { link, body, progress: progress.clone(), length, kind })
}

impl Body for File {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut got = Pin::new(&mut self.body).poll_frame(cx);
        if got.is_pending() {
            // The connection moves only when it is asked to.
            let _ = self.link.poll(cx);
            got = Pin::new(&mut self.body).poll_frame(cx);
        }
        if got.is_ready() {
            self.progress.moved();
        }
        got
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.size_hint().exact().unwrap_or(self.length))
    }
}
