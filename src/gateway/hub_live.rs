//! What is known of jobs that run, from the same messages that go to their clients' WebSockets: for whoever asks how far
//! one has got, and for whoever listens to one.
use crate::formats::comfy::api::v2::progress::Heard;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Default)]
pub struct Lives {
    all: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    live: Arc<Live>,
    /// It runs: what was heard of it is kept, whether somebody listens or not.
    runs: bool,
    listeners: usize,
}

pub struct Live {
    heard: Mutex<Heard>,
    /// Rung whenever something was heard, or its state changed.
    bell: watch::Sender<()>,
}

impl Default for Entry {
    fn default() -> Self {
        let live = Live { heard: Mutex::default(), bell: watch::Sender::new(()) };
        Entry { live: Arc::new(live), runs: false, listeners: 0 }
    }
}

/// One who listens to a job, whether it runs already or not.
pub struct Listener {
    lives: Arc<Lives>,
    job: String,
    live: Arc<Live>,
    rung: watch::Receiver<()>,
}

impl Lives {
    /// A text message of a job that its instance runs.
    pub fn text(&self, job: &str, kind: &str, data: &Value) {
        let live = self.running(job);
        if live.heard.lock().text(kind, data) {
            live.bell.send_replace(());
        }
    }

    /// Binary messages do not say whose they are: one that comes late is nobody's.
    pub fn binary(&self, job: &str, message: &[u8]) {
        let running = self.all.lock().get(job).filter(|entry| entry.runs).map(|entry| entry.live.clone());
        let Some(live) = running else { return };
        if live.heard.lock().binary(message) {
            live.bell.send_replace(());
        }
    }

    fn running(&self, job: &str) -> Arc<Live> {
        let mut all = self.all.lock();
        if let Some(entry) = all.get_mut(job) {
            entry.runs = true;
            return entry.live.clone();
        }
        let entry = all.entry(job.to_string()).or_default();
        entry.runs = true;
        entry.live.clone()
    }

    /// Its state has changed.
    pub fn ring(&self, job: &str) {
        if let Some(entry) = self.all.lock().get(job) {
            entry.live.bell.send_replace(());
        }
    }

    /// It runs no more: its history says what it made, or it waits again.
    pub fn over(&self, job: &str) {
        let mut all = self.all.lock();
        let Some(entry) = all.get_mut(job) else { return };
        entry.runs = false;
        *entry.live.heard.lock() = Heard::default();
        entry.live.bell.send_replace(());
        if entry.listeners == 0 {
            all.remove(job);
        }
    }

    /// What was heard of a job; nothing where it does not run.
    pub fn look<T>(&self, job: &str, read: impl FnOnce(&Heard) -> T) -> Option<T> {
        let live = self.all.lock().get(job).filter(|entry| entry.runs).map(|entry| entry.live.clone())?;
        let heard = live.heard.lock();
        Some(read(&heard))
    }

    pub fn listen(self: &Arc<Self>, job: &str) -> Listener {
        let mut all = self.all.lock();
        let entry = all.entry(job.to_string()).or_default();
        entry.listeners += 1;
        let live = entry.live.clone();
        let rung = live.bell.subscribe();
        Listener { lives: self.clone(), job: job.into(), live, rung }
    }
}

impl Listener {
    pub fn look<T>(&self, read: impl FnOnce(&Heard) -> T) -> T {
        read(&self.live.heard.lock())
    }

    /// Ready once something is new since the last time.
    pub async fn news(&mut self) {
        // The bell lives as long as this listener.
        let _ = self.rung.changed().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut all = self.lives.all.lock();
        let Some(entry) = all.get_mut(&self.job) else { return };
        entry.listeners -= 1;
        if entry.listeners == 0 && !entry.runs {
            all.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_job_is_listened_to_before_it_runs_and_forgotten_after() {
        let lives = Arc::new(Lives::default());
        let mut listener = lives.listen("j");
        assert_eq!(lives.look("j", |_| ()), None);
        lives.text("j", "execution_start", &json!({}));
        lives.text("j", "executed", &json!({"node": "1", "output": {"images": []}}));
        listener.news().await;
        assert_eq!(listener.look(|heard| heard.outputs.len()), 1);
        assert_eq!(lives.look("j", |heard| heard.outputs.len()), Some(1));
        lives.over("j");
        listener.news().await;
        assert_eq!(listener.look(|heard| heard.outputs.len()), 0);
        drop(listener);
        assert!(lives.all.lock().is_empty());
        lives.binary("k", b"\0\0\0\x01\0\0\0\x02png");
        assert!(lives.all.lock().is_empty());
        lives.text("k", "execution_start", &json!({}));
        lives.binary("k", b"\0\0\0\x01\0\0\0\x02png");
        drop(lives.listen("k"));
        assert_eq!(lives.look("k", |heard| heard.preview.is_some()), Some(true));
        lives.over("k");
        assert!(lives.all.lock().is_empty());
    }
}
