//! What a job put out is on disk before its end is. ComfyUI writes a file and goes on, and a power loss within the next
//! half a minute leaves an empty one, of a job that has succeeded and will not run again.
use crate::formats::comfy::api::paths;
use crate::gateway::access_log::Level;
use crate::gateway::jobs::call;
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::made::{self, File};
use crate::gateway::jobs::place::Seat;
use crate::gateway::shared::Gateway;
use crate::sys::fault;
use serde_json::{Value, json};

/// The guard that the tests take out: a power loss then takes what a job put out.
const FILES: &str = "jobs-files";

/// Waits until the instance has them on disk. One that cannot say so goes on: what it made is there all the same.
pub async fn sync(gateway: &Gateway, engine: &Engine, seat: &Seat, id: &str, outputs: &Value) {
    let Some(asked) = question(outputs).filter(|_| !fault::is_taken_out(FILES)) else { return };
    let why = match call::post(&seat.instance, paths::SYNC, &asked).await {
        // A main program that the start hook cannot add to.
        Ok(answer) if answer.status.is_success() || matches!(answer.status.as_u16(), 404 | 405 | 501) => {
            return;
        }
        Ok(answer) => format!("{} answered {}", paths::SYNC, answer.status.as_u16()),
        Err(why) => why.to_string(),
    };
    let text = format!("{id}: a power loss may take its files: {}: {why}", seat.instance.id());
    engine.note(&gateway.log, Level::Warning, &text);
}

/// `temp` is emptied at a start, and `input` is older than the job.
fn question(outputs: &Value) -> Option<Value> {
    let kept: Vec<Value> = made::files(outputs)
        .into_iter()
        .filter(|file| file.kind == "output")
        .map(|File { subfolder, filename, .. }| json!({ "subfolder": subfolder, "filename": filename }))
        .collect();
    (!kept.is_empty()).then(|| json!({ "files": kept }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_job() {
        let outputs = json!({
            "9": { "images": [{ "filename": "a.png", "subfolder": "", "type": "output" }] },
            "10": { "gifs": [{ "filename": "b.mp4", "subfolder": "films", "type": "output", "format": "video" }] },
            "11": { "images": [{ "filename": "c.png", "subfolder": "", "type": "temp" }], "text": ["words"] },
        });
        let mut files = question(&outputs).unwrap()["files"].take();
        files.as_array_mut().unwrap().sort_by_key(|file| file["filename"].to_string());
        let kept =
            json!([{ "subfolder": "", "filename": "a.png" }, { "subfolder": "films", "filename": "b.mp4" }]);
        assert_eq!(files, kept);
        assert_eq!(question(&json!({ "11": { "text": ["words"] } })), None);
    }
}
