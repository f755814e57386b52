//! The store behind two threads, since it blocks: one writes, one reads, each with a connection of its own.
//!
//! While nothing can be written, `trouble` says why, and the writer tries by itself whether it can again.
use crate::jobs::asset::{Asset, FindAsset, Used};
use crate::jobs::delivery::{Delivery, FindDeliveries};
use crate::jobs::model::{Body, History, Job, Time};
use crate::jobs::sqlite::Sqlite;
use crate::jobs::store::{Find, Keep, Store, Write};
use crate::jobs::writer::{EXPIRED, Expired, Group, LOOK_AGAIN, Order, Refused, Trouble, Writer, closed};
use crate::sys::error::{Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;

#[derive(Clone)]
pub struct Ledger {
    writer: Sender<Order>,
    reader: Sender<Question>,
    trouble: Arc<Trouble>,
}

/// What there is of a job beside its record, as JSON.
#[derive(Debug, Default)]
pub struct Texts {
    pub body: Option<String>,
    pub history: Option<String>,
}

/// It sends its own answer.
type Asked = Box<dyn FnOnce(&mut dyn Store) + Send>;

enum Question {
    Ask(Asked),
    Close(oneshot::Sender<()>),
}

impl Ledger {
    /// Starts two threads, each of which ends with the last handle, or with `close`.
    pub fn start(writer: Box<dyn Store>, reader: Box<dyn Store>) -> Ledger {
        let (orders, taken) = mpsc::channel();
        let (questions, asked) = mpsc::channel();
        let trouble = Arc::new(Trouble::default());
        let ledger = Ledger { writer: orders, reader: questions, trouble: trouble.clone() };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let writing = thread("jobs-writer").spawn(move || Writer::new(writer, trouble).run(&taken));
        let reading = thread("jobs-reader").spawn(move || read(reader, &asked));
        // Without its thread a channel has no end, and who uses it hears that the ledger is closed.
        if let Err(e) = writing.and(reading) {
            *ledger.trouble.written.lock() = Some(format!("cannot start a thread for the jobs: {e}"));
        }
        ledger
    }

    /// The ledger of a file; the jobs in it that have not ended, by `seq`, and the last `seq` that was given.
    pub fn open(file: &Path) -> Result<(Ledger, Vec<Job>, u64)> {
        let mut writer = Sqlite::open(file)?;
        let (jobs, last) = writer.open_jobs()?;
        let reader = Sqlite::open(file)?;
        Ok((Ledger::start(Box::new(writer), Box::new(reader)), jobs, last))
    }

    /// On disk when it returns Ok. Who goes away meanwhile does not take the write back.
    pub async fn write(&self, write: Write) -> Result<()> {
        self.write_all(vec![write]).await
    }

    /// For what nobody counts on, and an instance can be asked for: before whatever is written next, with its fsync. A
    /// crash may take it.
    pub fn write_later(&self, write: Write) {
        // A closed ledger writes nothing any more.
        let _ = self.writer.send(Order::Later(write));
    }

    /// In one transaction: all or nothing.
    pub async fn write_all(&self, writes: Vec<Write>) -> Result<()> {
        self.try_write(writes).await.map_err(|refused| refused.error)
    }

    /// For what has happened already: tries until it is on disk. Fails only if it can never be, or the ledger is
    /// closed.
    pub async fn insist(&self, mut writes: Vec<Write>) -> Result<()> {
        loop {
            match self.try_write(writes).await {
                Ok(()) => return Ok(()),
                Err(refused) if matches!(refused.error.kind, Kind::Input | Kind::Interrupted) => {
                    return Err(refused.error);
                }
                Err(refused) => writes = refused.writes,
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn try_write(&self, writes: Vec<Write>) -> Result<(), Refused> {
        let lost = || Refused { error: closed(), writes: Vec::new() };
        let (answer, answered) = oneshot::channel();
        self.writer.send(Order::Write(Group { writes, answer })).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }

    pub async fn job(&self, id: &str) -> Result<Option<Job>> {
        let id = id.to_string();
        self.ask(move |store| store.job(&id)).await
    }

    pub async fn body(&self, id: &str) -> Result<Option<Body>> {
        let id = id.to_string();
        self.ask(move |store| store.body(&id)).await
    }

    pub async fn body_text(&self, id: &str) -> Result<Option<String>> {
        let id = id.to_string();
        self.ask(move |store| store.body_text(&id)).await
    }

    pub async fn history(&self, id: &str) -> Result<Option<History>> {
        let id = id.to_string();
        self.ask(move |store| store.history(&id)).await
    }

    pub async fn find(&self, find: Find) -> Result<(Vec<Job>, u64)> {
        self.ask(move |store| store.find(&find)).await
    }

    pub async fn deliveries(&self, find: FindDeliveries) -> Result<(Vec<Delivery>, u64)> {
        self.ask(move |store| store.deliveries(&find)).await
    }

    pub async fn due(&self, place: String, now: Time, most: u64) -> Result<Vec<Delivery>> {
        self.ask(move |store| store.due(&place, now, most)).await
    }

    pub async fn counts(&self) -> Result<(u64, u64)> {
        self.ask(|store| store.counts()).await
    }

    pub async fn other_places(&self, known: Vec<String>) -> Result<Vec<String>> {
        self.ask(move |store| store.other_places(&known)).await
    }

    /// Body and history of each as texts, in the order of the ids; an unknown one has neither.
    pub async fn texts(&self, ids: Vec<String>) -> Result<Vec<Texts>> {
        self.ask(move |store| {
            let both =
                |id: &String| Ok(Texts { body: store.body_text(id)?, history: store.history_text(id)? });
            ids.iter().map(both).collect()
        })
        .await
    }

    /// The histories alone, in the order of the ids.
    pub async fn histories(&self, ids: Vec<String>) -> Result<Vec<Option<History>>> {
        self.ask(move |store| ids.iter().map(|id| store.history(id)).collect()).await
    }

    pub async fn assets(&self, find: FindAsset) -> Result<Vec<Asset>> {
        self.ask(move |store| store.assets(&find)).await
    }

    pub async fn used_by(&self, job: &str) -> Result<Vec<Used>> {
        let job = job.to_string();
        self.ask(move |store| store.used_by(&job)).await
    }

    pub async fn claimed(&self, owner: &str, key: &str, now: Time) -> Result<Option<String>> {
        let (owner, key) = (owner.to_string(), key.to_string());
        self.ask(move |store| store.claimed(&owner, &key, now)).await
    }

    pub async fn labels(&self, seqs: Vec<u64>) -> Result<Vec<(u64, String, String)>> {
        self.ask(move |store| store.labels(&seqs)).await
    }

    pub async fn unknown_hashes(&self, hashes: Vec<String>) -> Result<Vec<String>> {
        self.ask(move |store| store.unknown_hashes(&hashes)).await
    }

    /// Deletes what `keep` no longer covers, a few at a time; says how many went.
    pub async fn expire(&self, keep: Keep, now: Time) -> Result<u64> {
        self.let_go(Expired::Jobs, keep, now).await
    }

    /// The same of records of files.
    pub async fn expire_assets(&self, keep: Keep, now: Time) -> Result<u64> {
        self.let_go(Expired::Assets, keep, now).await
    }

    async fn let_go(&self, what: Expired, keep: Keep, now: Time) -> Result<u64> {
        let mut gone = 0;
        loop {
            let (answer, answered) = oneshot::channel();
            self.writer.send(Order::Expire(keep, now, what, answer)).map_err(|_| closed())?;
            let some = answered.await.map_err(|_| closed())??;
            gone += some;
            if some < EXPIRED {
                return Ok(gone);
            }
        }
    }

    /// A consistent copy into a file that must not exist; neither readers nor writers wait for it.
    pub async fn backup(&self, to: &Path) -> Result<()> {
        let to = to.to_path_buf();
        self.beside(move |store| store.backup(&to)).await
    }

    /// Looks for damage in all that is kept, while everything goes on. What is found is trouble from then on.
    pub async fn check(&self) -> Result<()> {
        self.beside(|store| store.check()).await
    }

    /// What takes long, on a connection and a thread of its own.
    async fn beside<F>(&self, act: F) -> Result<()>
    where
        F: FnOnce(&mut dyn Store) -> Result<()> + Send + 'static,
    {
        let mut store = self.ask(|store| store.another()).await?;
        let done = tokio::task::spawn_blocking(move || act(store.as_mut())).await;
        let done =
            done.map_err(|e| Error::new(Kind::Io, "the work with the jobs was cut off").caused_by(e))?;
        self.trouble.look_for_damage(&done);
        done
    }

    /// Writes what waits, and closes the files; what is asked later fails.
    pub async fn close(&self) {
        // The writer last: who closes a database last leaves it without a log. An error says that it is closed.
        let (answer, done) = oneshot::channel();
        if self.reader.send(Question::Close(answer)).is_ok() {
            let _ = done.await;
        }
        let (answer, done) = oneshot::channel();
        if self.writer.send(Order::Close(answer)).is_ok() {
            let _ = done.await;
        }
    }

    /// Why no new job may be taken: the last write's failure, until one succeeds; or damage, whoever met with it.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.damaged.lock().clone().or_else(|| self.trouble.written.lock().clone())
    }

    async fn ask<T, F>(&self, question: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Store) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // Who no longer waits for the answer is not told.
        let asked = move |store: &mut dyn Store| drop(answer.send(question(store)));
        self.reader.send(Question::Ask(Box::new(asked))).map_err(|_| closed())?;
        let answer = answered.await.map_err(|_| closed())?;
        self.trouble.look_for_damage(&answer);
        answer
    }
}

fn read(mut store: Box<dyn Store>, questions: &Receiver<Question>) {
    for question in questions {
        match question {
            Question::Ask(ask) => ask(store.as_mut()),
            Question::Close(done) => {
                drop(store);
                let _ = done.send(());
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
