//! What a request is about: ComfyUI's queue, history, pictures and WebSockets live in one process, so whoever
//! passes requests on to several must know.
use crate::formats::comfy::api::{paths, query, v2};
use std::borrow::Cow;

/// Where a path leads, with or without `/api` before it.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// POST a job: its answer names the job, its body the client.
    Prompt,
    /// What concerns one job.
    Job(&'a str),
    /// POST with ids of jobs in the body.
    Jobs,
    View,
    WebSocket,
    Other,
}

pub fn route<'a>(method: &str, path: &'a str) -> Route<'a> {
    let plain = path.strip_prefix(paths::API).unwrap_or(path);
    let post = method == "POST";
    match plain {
        paths::PROMPT if post => return Route::Prompt,
        paths::INTERRUPT | paths::QUEUE | paths::HISTORY if post => return Route::Jobs,
        paths::VIEW if matches!(method, "GET" | "HEAD") => return Route::View,
        paths::WEBSOCKET => return Route::WebSocket,
        _ => {}
    }
    match below(plain, paths::HISTORY).or_else(|| below(path, paths::JOBS)) {
        Some(id) if !id.is_empty() => Route::Job(id),
        _ => Route::Other,
    }
}

/// What a request asks of whoever keeps the jobs in the place of one process. HEAD is answered where GET is. Requests for
/// single jobs have the id as aiohttp decodes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobsRoute<'a> {
    /// POST a job.
    Submit,
    /// How many have not ended.
    PromptGet,
    Queue,
    QueuePost,
    HistoryAll,
    HistoryOf(Cow<'a, str>),
    HistoryPost,
    JobsList,
    JobOf(Cow<'a, str>),
    JobCancel(Cow<'a, str>),
    JobsCancel,
    Interrupt,
    Free,
    Features,
    WebSocket,
    View,
    /// An upload of a picture or a mask.
    Upload,
    /// Something of Comfy API v2 (`v2::route`), or nothing that it has.
    V2,
}

/// `None`: no business of the jobs' keeper, or with a method that ComfyUI does not answer there.
pub fn jobs_route<'a>(method: &str, path: &'a str) -> Option<JobsRoute<'a>> {
    if v2::route::is_below(path) {
        return Some(JobsRoute::V2);
    }
    let plain = path.strip_prefix(paths::API).unwrap_or(path);
    let route = match (method, plain) {
        ("POST", paths::PROMPT) => JobsRoute::Submit,
        ("GET" | "HEAD", paths::PROMPT) => JobsRoute::PromptGet,
        ("POST", paths::QUEUE) => JobsRoute::QueuePost,
        ("GET" | "HEAD", paths::QUEUE) => JobsRoute::Queue,
        ("POST", paths::HISTORY) => JobsRoute::HistoryPost,
        ("GET" | "HEAD", paths::HISTORY) => JobsRoute::HistoryAll,
        ("POST", paths::INTERRUPT) => JobsRoute::Interrupt,
        ("POST", paths::FREE) => JobsRoute::Free,
        ("GET" | "HEAD", paths::FEATURES) => JobsRoute::Features,
        ("GET", paths::WEBSOCKET) => JobsRoute::WebSocket,
        ("GET" | "HEAD", paths::VIEW) => JobsRoute::View,
        ("POST", paths::UPLOAD_IMAGE | paths::UPLOAD_MASK) => JobsRoute::Upload,
        ("GET" | "HEAD", _) if plain.starts_with(paths::HISTORY) => {
            JobsRoute::HistoryOf(segment(plain.strip_prefix(paths::HISTORY)?.strip_prefix('/')?)?)
        }
        _ => return of_api_jobs(method, path),
    };
    Some(route)
}

/// Jobs are below `/api` to begin with, and ComfyUI puts `/api` before them once more, as before all others.
fn of_api_jobs<'a>(method: &str, path: &'a str) -> Option<JobsRoute<'a>> {
    let rest = path
        .strip_prefix(paths::JOBS)
        .or_else(|| path.strip_prefix(paths::API)?.strip_prefix(paths::JOBS))?;
    let get = matches!(method, "GET" | "HEAD");
    if rest.is_empty() {
        return get.then_some(JobsRoute::JobsList);
    }
    let rest = rest.strip_prefix('/')?;
    match (method, rest.split_once('/')) {
        ("POST", None) if rest == "cancel" => Some(JobsRoute::JobsCancel),
        ("POST", Some((id, "cancel"))) => Some(JobsRoute::JobCancel(segment(id)?)),
        (_, None) if get => Some(JobsRoute::JobOf(segment(rest)?)),
        _ => None,
    }
}

/// One segment of a path, decoded. An empty one is none.
fn segment(text: &str) -> Option<Cow<'_, str>> {
    if text.is_empty() || text.contains('/') {
        return None;
    }
    if text.contains('%') { query::decode_segment(text).map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
}

/// The name that follows `folder` in a path.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
    rest.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_comfyui() {
        for api in ["", "/api"] {
            let path = |rest: &str| format!("{api}{rest}");
            assert_eq!(route("POST", &path("/prompt")), Route::Prompt);
            assert_eq!(route("GET", &path("/prompt")), Route::Other);
            assert_eq!(route("GET", &path("/history/abc")), Route::Job("abc"));
            assert_eq!(route("GET", &path("/history")), Route::Other);
            assert_eq!(route("GET", &path("/history/")), Route::Other);
            assert_eq!(route("POST", &path("/queue")), Route::Jobs);
            assert_eq!(route("HEAD", &path("/view")), Route::View);
            assert_eq!(route("GET", &path("/ws")), Route::WebSocket);
        }
        assert_eq!(route("DELETE", "/api/jobs/abc/cancel"), Route::Job("abc"));
        assert_eq!(route("GET", "/jobs/abc"), Route::Other);
        assert_eq!(route("GET", "/viewer"), Route::Other);
        assert_eq!(route("GET", &paths::history_of("abc")), Route::Job("abc"));
    }

    #[test]
    fn routes_of_the_keeper_of_jobs() {
        let id = |text: &str| Cow::Owned::<str>(text.to_string());
        for api in ["", "/api"] {
            let check = |method: &str, rest: &str, route: Option<JobsRoute>| {
                assert_eq!(jobs_route(method, &format!("{api}{rest}")), route, "{method} {api}{rest}");
            };
            check("POST", "/prompt", Some(JobsRoute::Submit));
            check("GET", "/prompt", Some(JobsRoute::PromptGet));
            check("HEAD", "/prompt", Some(JobsRoute::PromptGet));
            check("PUT", "/prompt", None);
            check("GET", "/queue", Some(JobsRoute::Queue));
            check("POST", "/queue", Some(JobsRoute::QueuePost));
            check("GET", "/history", Some(JobsRoute::HistoryAll));
            check("POST", "/history", Some(JobsRoute::HistoryPost));
            check("GET", "/history/abc", Some(JobsRoute::HistoryOf(id("abc"))));
            check("GET", "/history/a%20b%2Fc", Some(JobsRoute::HistoryOf(id("a b/c"))));
            check("GET", "/history/a%zz", None);
            check("POST", "/history/abc", None);
            check("GET", "/history/", None);
            check("GET", "/history/a/b", None);
            check("GET", "/historyabc", None);
            check("POST", "/interrupt", Some(JobsRoute::Interrupt));
            check("GET", "/interrupt", None);
            check("POST", "/free", Some(JobsRoute::Free));
            check("GET", "/features", Some(JobsRoute::Features));
            check("GET", "/ws", Some(JobsRoute::WebSocket));
            check("HEAD", "/view", Some(JobsRoute::View));
            check("POST", "/upload/image", Some(JobsRoute::Upload));
            check("POST", "/upload/mask", Some(JobsRoute::Upload));
            check("GET", "/object_info", None);
            check("GET", "/api/jobs", Some(JobsRoute::JobsList));
            check("GET", "/api/jobs/abc", Some(JobsRoute::JobOf(id("abc"))));
            check("POST", "/api/jobs/abc/cancel", Some(JobsRoute::JobCancel(id("abc"))));
            check("POST", "/api/jobs/cancel", Some(JobsRoute::JobsCancel));
            check("POST", "/api/jobs", None);
            check("GET", "/api/jobs/", None);
            check("GET", "/api/jobs/abc/cancel", None);
            check("POST", "/api/jobs/abc", None);
            check("POST", "/api/jobs//cancel", None);
            check("GET", "/api/jobsx", None);
        }
        assert_eq!(jobs_route("DELETE", "/api/v2/assets/a"), Some(JobsRoute::V2));
        assert_eq!(jobs_route("GET", "/jobs"), None);
        assert_eq!(jobs_route("GET", "/api/api/api/jobs"), None);
    }
}
