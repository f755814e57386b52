use super::*;
use crate::jobs::asset::{Asset, Beside, FindAsset, Used};
use crate::jobs::fixture::*;
use crate::jobs::model::State;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a child of a test does, and with which file.
const CHILD: &str = "STILLFRAME_JOBS_CHILD";
const CHILD_FILE: &str = "STILLFRAME_JOBS_FILE";

/// A store that can be slow, fail, and counts its transactions.
struct Watched {
    store: Box<dyn Store>,
    transactions: Arc<AtomicU32>,
    slow: Duration,
    fails: Arc<AtomicU32>,
}

impl Store for Watched {
    fn write(&mut self, batch: &[Write]) -> Result<()> {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.slow);
        if self.fails.load(Ordering::Relaxed) > 0 {
            self.fails.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::new(Kind::Io, "the disk is away"));
        }
        self.store.write(batch)
    }
    fn open_jobs(&mut self) -> Result<(Vec<Job>, u64)> {
        self.store.open_jobs()
    }
    fn job(&mut self, id: &str) -> Result<Option<Job>> {
        self.store.job(id)
    }
    fn body(&mut self, id: &str) -> Result<Option<Body>> {
        self.store.body(id)
    }
    fn body_text(&mut self, id: &str) -> Result<Option<String>> {
        self.store.body_text(id)
    }

    fn history_text(&mut self, id: &str) -> Result<Option<String>> {
        self.store.history_text(id)
    }

    fn history(&mut self, id: &str) -> Result<Option<History>> {
        self.store.history(id)
    }
    fn find(&mut self, find: &Find) -> Result<(Vec<Job>, u64)> {
        self.store.find(find)
    }
    fn deliveries(&mut self, find: &FindDeliveries) -> Result<(Vec<Delivery>, u64)> {
        self.store.deliveries(find)
    }
    fn due(&mut self, place: &str, now: Time, most: u64) -> Result<Vec<Delivery>> {
        self.store.due(place, now, most)
    }
    fn counts(&mut self) -> Result<(u64, u64)> {
        self.store.counts()
    }
    fn other_places(&mut self, known: &[String]) -> Result<Vec<String>> {
        self.store.other_places(known)
    }
    fn expire(&mut self, keep: &Keep, now: Time, most: u64) -> Result<u64> {
        self.store.expire(keep, now, most)
    }
    fn backup(&mut self, to: &Path) -> Result<()> {
        self.store.backup(to)
    }
    fn check(&mut self) -> Result<()> {
        self.store.check()
    }
    fn another(&self) -> Result<Box<dyn Store>> {
        self.store.another()
    }
}

impl Beside for Watched {
    fn assets(&mut self, find: &FindAsset) -> Result<Vec<Asset>> {
        self.store.assets(find)
    }
    fn is_used(&mut self, asset: &str) -> Result<bool> {
        self.store.is_used(asset)
    }
    fn used_by(&mut self, job: &str) -> Result<Vec<Used>> {
        self.store.used_by(job)
    }
    fn claimed(&mut self, owner: &str, key: &str, now: Time) -> Result<Option<String>> {
        self.store.claimed(owner, key, now)
    }
    fn labels(&mut self, seqs: &[u64]) -> Result<Vec<(u64, String, String)>> {
        self.store.labels(seqs)
    }
    fn expire_assets(&mut self, keep: &Keep, now: Time, most: u64) -> Result<u64> {
        self.store.expire_assets(keep, now, most)
    }
    fn unknown_hashes(&mut self, hashes: &[String]) -> Result<Vec<String>> {
        self.store.unknown_hashes(hashes)
    }
}

struct Fixture {
    ledger: Ledger,
    transactions: Arc<AtomicU32>,
    fails: Arc<AtomicU32>,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

fn watched(slow: Duration) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let (transactions, fails) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let store = Box::new(Sqlite::open(&file).unwrap());
    let writer = Watched { store, transactions: transactions.clone(), slow, fails: fails.clone() };
    let ledger = Ledger::start(Box::new(writer), Box::new(Sqlite::open(&file).unwrap()));
    Fixture { ledger, transactions, fails, file, _folder: folder }
}

#[tokio::test]
async fn what_is_written_is_read_and_there_when_it_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let (ledger, jobs, last) = Ledger::open(&file).unwrap();
    assert_eq!((jobs, last), (vec![], 0));
    ledger.write_all(vec![accept(1), accept(2), accept(3)]).await.unwrap();
    ledger.write_all(vec![dispatch(1, 5), start(1, 6), end(1, State::Succeeded, 7)]).await.unwrap();
    ledger.write(dispatch(2, 8)).await.unwrap();
    assert_eq!(ledger.job(&id(3)).await.unwrap(), Some(job(3)));
    assert_eq!(ledger.body(&id(3)).await.unwrap(), Some(body(3)));
    assert_eq!(ledger.history(&id(3)).await.unwrap(), None);
    let found = ledger.find(Find { limit: Some(1), ..Find::default() }).await.unwrap();
    assert_eq!(found, (vec![job(3)], 3));
    let both = ledger.texts(vec![id(1), "none".into(), id(2)]).await.unwrap();
    let text = both[0].body.as_deref().unwrap();
    assert_eq!(serde_json::from_str::<Body>(text).unwrap(), body(1));
    assert!(both[0].history.is_some() && both[2].history.is_none());
    assert!(both[1].body.is_none() && both[1].history.is_none());
    ledger.backup(&folder.path().join("copy.db")).await.unwrap();
    let keep = Keep { age_ms: 0, count: 0, bytes: 0 };
    assert_eq!(ledger.expire(keep, 100).await.unwrap(), 1);
    ledger.close().await;
    // Nothing is left beside it.
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["copy.db", "jobs.db"]);

    let (_, jobs, last) = Ledger::open(&file).unwrap();
    assert_eq!(
        jobs.iter().map(|job| (job.seq, job.state)).collect::<Vec<_>>(),
        [(2, State::Dispatched), (3, State::Queued)]
    );
    assert_eq!(last, 3);
    let (_, jobs, _) = Ledger::open(&folder.path().join("copy.db")).unwrap();
    assert_eq!(jobs.len(), 2);
}

#[tokio::test]
async fn a_hundred_who_wait_pay_for_few_syncs() {
    let Fixture { ledger, transactions, .. } = watched(Duration::from_millis(20));
    let mut tasks = tokio::task::JoinSet::new();
    for seq in 1..=100 {
        let ledger = ledger.clone();
        tasks.spawn(async move { ledger.write(accept(seq)).await });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    let used = transactions.load(Ordering::Relaxed);
    assert!((1..=5).contains(&used), "{used} transactions for 100 writes");
    assert_eq!(ledger.find(Find::default()).await.unwrap().1, 100);
}

#[tokio::test]
async fn what_can_wait_goes_with_the_next_write_or_soon() {
    let fixture = watched(Duration::from_millis(20));
    let Fixture { ledger, transactions, .. } = &fixture;
    ledger.write_all(vec![accept(1), dispatch(1, 5)]).await.unwrap();
    let before = transactions.load(Ordering::SeqCst);
    ledger.write_later(start(1, 6));
    ledger.write(end(1, State::Succeeded, 9)).await.unwrap();
    assert_eq!(transactions.load(Ordering::SeqCst) - before, 1);
    assert_eq!(ledger.job(&id(1)).await.unwrap().unwrap().started, Some(6));
    // With nothing after it, by itself.
    ledger.write_all(vec![accept(2), dispatch(2, 5)]).await.unwrap();
    ledger.write_later(start(2, 7));
    let until = Instant::now() + Duration::from_secs(10);
    while ledger.job(&id(2)).await.unwrap().unwrap().started != Some(7) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // And before it is closed.
    ledger.write_all(vec![accept(3), dispatch(3, 5)]).await.unwrap();
    ledger.write_later(start(3, 8));
    ledger.close().await;
    let mut store = Sqlite::open(&fixture.file).unwrap();
    assert_eq!(store.job(&id(3)).unwrap().unwrap().started, Some(8));
}

#[tokio::test]
async fn a_bad_write_fails_alone() {
    let Fixture { ledger, .. } = watched(Duration::from_millis(20));
    ledger.write(accept(1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for seq in 1..=10 {
        let ledger = ledger.clone();
        // The first is there already; the last of each pair is good, and goes with the other.
        tasks.spawn(async move { (seq, ledger.write_all(vec![accept(seq), accept(100 + seq)]).await) });
    }
    for (seq, done) in tasks.join_all().await {
        assert_eq!(done.is_err(), seq == 1, "{done:?}");
        assert_eq!(ledger.job(&id(100 + seq)).await.unwrap().is_some(), seq != 1);
    }
    assert_eq!(ledger.trouble(), None, "a bad write says nothing about the disk");
}

#[tokio::test]
async fn trouble_is_told_until_a_write_succeeds_by_itself() {
    let Fixture { ledger, fails, transactions, .. } = watched(Duration::ZERO);
    fails.store(2, Ordering::Relaxed);
    let error = ledger.write(accept(1)).await.unwrap_err();
    assert_eq!((error.kind, ledger.trouble().as_deref()), (Kind::Io, Some("the disk is away")));
    assert_eq!(ledger.find(Find::default()).await.unwrap().1, 0, "readers go on");
    let began = Instant::now();
    while ledger.trouble().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(transactions.load(Ordering::Relaxed), 3);

    // What has happened is written as soon as it can be; what never can be is not tried again.
    ledger.write(accept(2)).await.unwrap();
    fails.store(1, Ordering::Relaxed);
    ledger.insist(vec![dispatch(2, 3), start(2, 4)]).await.unwrap();
    assert_eq!(ledger.job(&id(2)).await.unwrap().unwrap().state, State::Running);
    assert_eq!(ledger.insist(vec![dispatch(7, 3)]).await.unwrap_err().kind, Kind::Input);
}

#[tokio::test]
async fn a_closed_ledger_has_written_all_and_takes_nothing() {
    let Fixture { ledger, file, _folder, .. } = watched(Duration::from_millis(20));
    let mut tasks = tokio::task::JoinSet::new();
    for seq in 1..=20 {
        let ledger = ledger.clone();
        tasks.spawn(async move { ledger.write(accept(seq)).await });
    }
    tokio::task::yield_now().await;
    ledger.close().await;
    let written = tasks.join_all().await.iter().filter(|done| done.is_ok()).count();
    assert_eq!(Sqlite::open(&file).unwrap().open_jobs().unwrap().0.len(), written);
    let says = |error: Error| {
        assert_eq!((error.kind, &*error.message), (Kind::Interrupted, "the ledger of the jobs is closed"))
    };
    says(ledger.write(accept(30)).await.unwrap_err());
    says(ledger.insist(vec![accept(30)]).await.unwrap_err());
    says(ledger.job(&id(1)).await.unwrap_err());
    says(ledger.expire(Keep { age_ms: 0, count: 0, bytes: 0 }, 0).await.unwrap_err());
    says(ledger.backup(Path::new("/nowhere")).await.unwrap_err());
    assert!(ledger.trouble().is_some(), "new jobs are refused");
    ledger.close().await;
}

#[tokio::test]
async fn damage_stays_trouble_while_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let (ledger, ..) = Ledger::open(&file).unwrap();
    for seq in 1..=200 {
        ledger.write_all(vec![accept(seq), dispatch(seq, 1), end(seq, State::Succeeded, seq)]).await.unwrap();
    }
    ledger.write(accept(201)).await.unwrap();
    ledger.check().await.unwrap();
    ledger.close().await;
    // A page of the middle of the file: nothing that is opened, or that waits, is there.
    let mut bytes = std::fs::read(&file).unwrap();
    let page = bytes.len() / 4096 / 2 * 4096;
    bytes[page..page + 4096].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let (ledger, jobs, last) = Ledger::open(&file).unwrap();
    assert_eq!((jobs, last), (vec![job(201)], 201));
    assert_eq!(ledger.trouble(), None);
    let error = ledger.check().await.unwrap_err();
    assert_eq!((error.kind, error.message.clone()), (Kind::Io, format!("{} is damaged", file.display())));
    assert!(error.hint.is_some());
    assert_eq!(ledger.trouble(), Some(error.full()));
    ledger.write(dispatch(201, 5)).await.unwrap();
    assert_eq!(ledger.trouble(), Some(error.full()), "a write does not mend it");
}

/// This program again, as a child that does one thing. `before` is shell that is run in namespaces of its own.
fn child(what: &str, file: &Path, before: Option<&str>) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = match before {
        None => Command::new(own),
        Some(before) => {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-ec", &format!("{before}\nexec \"$0\" \"$@\"")]).arg(own);
            command
        }
    };
    command.args([
        "--exact",
        "jobs::ledger::tests::as_a_child",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(CHILD, what).env(CHILD_FILE, file).stdin(Stdio::null());
    command
}

#[test]
#[ignore = "what other tests start"]
fn as_a_child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let file = PathBuf::from(std::env::var_os(CHILD_FILE).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match what.as_str() {
        "accept" => runtime.block_on(accept_for_ever(&file)),
        "full" => runtime.block_on(until_it_is_full(&file, true)),
        "limited" => runtime.block_on(until_it_is_full(&file, false)),
        "read-only" => {
            let error = Ledger::open(&file).err().expect("it opens");
            assert!(error.message.contains(file.to_str().unwrap()) && error.hint.is_some(), "{error:?}");
        }
        other => panic!("what is {other}?"),
    }
}

async fn accept_for_ever(file: &Path) {
    let (ledger, _, last) = Ledger::open(file).unwrap();
    let next = Arc::new(AtomicU64::new(last + 1));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (ledger, next) = (ledger.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let seq = next.fetch_add(1, Ordering::Relaxed);
                ledger.write(accept(seq)).await.unwrap();
                // In one write, so that a line is whole or not there.
                std::io::stdout().write_all(format!("accepted {seq}\n").as_bytes()).unwrap();
                if seq % 3 == 0 {
                    ledger.write_all(vec![dispatch(seq, 1), end(seq, State::Succeeded, 2)]).await.unwrap();
                    std::io::stdout().write_all(format!("ended {seq}\n").as_bytes()).unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
}

/// What a child that was killed has said.
fn kill_after(mut child: Child, time: Duration) -> Vec<(String, u64)> {
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(std::result::Result::ok);
        let said = lines.filter_map(|line| {
            let (word, seq) = line.split_once(' ')?;
            Some((word.to_string(), seq.parse().ok()?))
        });
        said.filter(|(word, _)| word == "accepted" || word == "ended").collect()
    });
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn what_was_accepted_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let mut said: BTreeSet<(String, u64)> = BTreeSet::new();
    for round in 0..8u64 {
        let running =
            child("accept", &file, None).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let random =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        let now = kill_after(running, Duration::from_millis(60 * round + u64::from(random) % 200));
        for one in now {
            assert!(said.insert(one.clone()), "{one:?} was said twice");
        }
        let mut store = Sqlite::open(&file).unwrap();
        let last = store.open_jobs().unwrap().1;
        for (word, seq) in &said {
            let job = store.job(&id(*seq)).unwrap().unwrap_or_else(|| panic!("job {seq} is lost"));
            assert!(word != "ended" || job.state == State::Succeeded, "the end of {seq} is lost");
            assert!(*seq <= last);
        }
        for (_, seq) in said.iter().filter(|(word, _)| word == "accepted").step_by(7) {
            assert_eq!(store.body(&id(*seq)).unwrap(), Some(body(*seq)));
        }
    }
    assert!(said.len() > 100, "only {} were accepted", said.len());
}

/// Fills the disk, or what a process may write, of a child. `recovers`: then makes space by removing a file.
async fn until_it_is_full(file: &Path, recovers: bool) {
    let filler = file.with_extension("filler");
    std::fs::write(&filler, vec![1; if recovers { 300 << 10 } else { 0 }]).unwrap();
    let (ledger, ..) = Ledger::open(file).unwrap();
    let mut last = 0;
    let error = loop {
        match ledger.write(accept(last + 1)).await {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 10_000, "it is never full");
    };
    assert!(last > 10, "only {last} were accepted: {}", error.full());
    assert_eq!(error.kind, Kind::Io);
    assert_eq!(error.is_full(), recovers, "{error:?}");
    assert!(error.message.ends_with(file.to_str().unwrap()) && error.hint.is_some(), "{error:?}");
    assert_eq!(ledger.trouble(), Some(error.full()));
    for seq in 1..=last {
        assert_eq!(ledger.body(&id(seq)).await.unwrap(), Some(body(seq)), "readers go on");
    }
    if recovers {
        let ends = {
            let ledger = ledger.clone();
            tokio::spawn(
                async move { ledger.insist(vec![dispatch(1, 2), end(1, State::Succeeded, 3)]).await },
            )
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        std::fs::remove_file(&filler).unwrap();
        ends.await.unwrap().unwrap();
        assert_eq!(ledger.trouble(), None);
        last += 1;
        ledger.write(accept(last)).await.unwrap();
    }
    ledger.close().await;
    let (_, jobs, counted) = Ledger::open(file).unwrap();
    assert_eq!((jobs.len() as u64 + u64::from(recovers), counted), (last, last));
}

/// Whether namespaces can be made here.
fn may_mount() -> bool {
    Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn succeeds(mut child: Command) {
    let done = child.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_full_disk_refuses_new_jobs_keeps_the_others_and_is_left_behind() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=2m,mode=700 none {}", folder.path().display());
    succeeds(child("full", &folder.path().join("jobs.db"), Some(&mount)));
}

#[test]
fn a_limit_of_the_file_size_is_no_panic() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes; SQLite gets EFBIG in place of the signal.
    let limit = "trap '' XFSZ\nulimit -f 3000";
    succeeds(child("limited", &folder.path().join("jobs.db"), Some(limit)));
}

#[test]
fn a_read_only_folder_is_named() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("mount --bind {0} {0}\nmount -o remount,bind,ro {0}", folder.path().display());
    let file = folder.path().join("jobs.db");
    // Without a file, and with one.
    succeeds(child("read-only", &file, Some(&mount)));
    drop(Ledger::open(&file).unwrap());
    succeeds(child("read-only", &file, Some(&mount)));
}
