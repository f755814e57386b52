//! Where a request below `/api/v2` leads.
use crate::formats::comfy::api::query;
use std::borrow::Cow;

pub const ROOT: &str = "/api/v2";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2Route<'a> {
    Submit,
    List,
    Job(Cow<'a, str>),
    Workflow(Cow<'a, str>),
    Events(Cow<'a, str>),
    Cancel(Cow<'a, str>),
    Upload,
    FromHash,
    ByHash(Cow<'a, str>),
    Asset(Cow<'a, str>),
    DeleteAsset(Cow<'a, str>),
    Content(Cow<'a, str>),
    /// Nothing of this API, or with a method that it does not have there.
    Unknown,
}

/// Whether a path is of this API at all.
pub fn is_below(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Of a path that is (`is_below`).
pub fn v2_route<'a>(method: &str, path: &'a str) -> V2Route<'a> {
    let rest = path.strip_prefix(ROOT).unwrap_or(path);
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    let get = matches!(method, "GET" | "HEAD");
    let route = match (method, parts.as_slice()) {
        ("POST", ["jobs"]) => Some(V2Route::Submit),
        (_, ["jobs"]) if get => Some(V2Route::List),
        (_, ["jobs", id]) if get => id_of(id).map(V2Route::Job),
        (_, ["jobs", id, "workflow"]) if get => id_of(id).map(V2Route::Workflow),
        ("GET", ["jobs", id, "events"]) => id_of(id).map(V2Route::Events),
        ("POST", ["jobs", id, "cancel"]) => id_of(id).map(V2Route::Cancel),
        ("POST", ["assets"]) => Some(V2Route::Upload),
        ("POST", ["assets", "from-hash"]) => Some(V2Route::FromHash),
        (_, ["assets", "by-hash", hash]) if get => id_of(hash).map(V2Route::ByHash),
        (_, ["assets", id]) if get => id_of(id).map(V2Route::Asset),
        ("DELETE", ["assets", id]) => id_of(id).map(V2Route::DeleteAsset),
        (_, ["assets", id, "content"]) if get => id_of(id).map(V2Route::Content),
        _ => None,
    };
    route.unwrap_or(V2Route::Unknown)
}

fn id_of(segment: &str) -> Option<Cow<'_, str>> {
    if segment.is_empty() {
        return None;
    }
    if segment.contains('%') {
        query::decode_segment(segment).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(segment))
    }
}

pub fn job(id: &str) -> String {
    format!("{ROOT}/jobs/{id}")
}

pub fn content(asset: &str) -> String {
    format!("{ROOT}/assets/{asset}/content")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_the_description() {
        let id = |text: &'static str| Cow::Borrowed(text);
        for (method, path, route) in [
            ("POST", "/api/v2/jobs", V2Route::Submit),
            ("GET", "/api/v2/jobs", V2Route::List),
            ("GET", "/api/v2/jobs/a", V2Route::Job(id("a"))),
            ("HEAD", "/api/v2/jobs/a", V2Route::Job(id("a"))),
            ("GET", "/api/v2/jobs/a/workflow", V2Route::Workflow(id("a"))),
            ("GET", "/api/v2/jobs/a/events", V2Route::Events(id("a"))),
            ("POST", "/api/v2/jobs/a/cancel", V2Route::Cancel(id("a"))),
            ("POST", "/api/v2/assets", V2Route::Upload),
            ("POST", "/api/v2/assets/from-hash", V2Route::FromHash),
            ("HEAD", "/api/v2/assets/by-hash/blake3:0a", V2Route::ByHash(id("blake3:0a"))),
            ("HEAD", "/api/v2/assets/by-hash/blake3%3A0a", V2Route::ByHash(id("blake3:0a"))),
            ("GET", "/api/v2/assets/a", V2Route::Asset(id("a"))),
            ("DELETE", "/api/v2/assets/a", V2Route::DeleteAsset(id("a"))),
            ("GET", "/api/v2/assets/a/content", V2Route::Content(id("a"))),
        ] {
            assert_eq!(v2_route(method, path), route, "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/api/v2"),
            ("PUT", "/api/v2/jobs"),
            ("GET", "/api/v2/jobs/"),
            ("GET", "/api/v2/jobs/a/b"),
            ("POST", "/api/v2/jobs/a"),
            ("GET", "/api/v2/jobs/%zz"),
            ("GET", "/api/v2/health"),
        ] {
            assert_eq!(v2_route(method, path), V2Route::Unknown, "{method} {path}");
        }
        assert!(
            is_below("/api/v2/x") && is_below("/api/v2") && !is_below("/api/v20") && !is_below("/v2/jobs")
        );
    }
}
