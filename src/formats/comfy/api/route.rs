//! What a request is about: ComfyUI's queue, history, pictures and WebSockets live in one process, so whoever
//! passes requests on to several must know.
use crate::formats::comfy::api::paths;

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
}
