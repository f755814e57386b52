//! Where things are. Each path exists below `/api` too (`server.py`, `add_routes`); jobs exist only there.

/// Answers once the imports are done, whether or not they succeeded.
pub const SYSTEM_STATS: &str = "/system_stats";
/// The node classes that were loaded.
pub const OBJECT_INFO: &str = "/object_info";
/// The scripts that pages load.
pub const EXTENSIONS: &str = "/extensions";
/// POST queues a job, GET counts those that are queued.
pub const PROMPT: &str = "/prompt";
/// POST takes jobs out of the queue.
pub const QUEUE: &str = "/queue";
/// GET answers with the jobs that have ended, POST forgets some.
pub const HISTORY: &str = "/history";
/// POST stops the job that runs.
pub const INTERRUPT: &str = "/interrupt";
/// POST takes models out of memory.
pub const FREE: &str = "/free";
/// What the server can do, by name.
pub const FEATURES: &str = "/features";
pub const UPLOAD_IMAGE: &str = "/upload/image";
pub const UPLOAD_MASK: &str = "/upload/mask";
/// GET answers with a picture.
pub const VIEW: &str = "/view";
pub const WEBSOCKET: &str = "/ws";
/// Jobs in any state.
pub const JOBS: &str = "/api/jobs";

pub const API: &str = "/api";

/// Ours, added to ComfyUI's by `host/scripts/sitecustomize.py`, for the gateway alone: POST validates a job and queues none.
pub const VALIDATE: &str = "/stillframe/validate";

/// Ours, too: POST answers when the files that it names are on disk.
pub const SYNC: &str = "/stillframe/sync";

/// Of one job, once it has ended.
pub fn history_of(id: &str) -> String {
    format!("{HISTORY}/{id}")
}
