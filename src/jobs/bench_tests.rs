//! What the ledger does in a second, and how long a page of many jobs takes. By hand, in a build with optimisation:
//! `cargo test --release --lib jobs::bench -- --ignored --nocapture --test-threads=1`.
use crate::jobs::fixture::*;
use crate::jobs::ledger::Ledger;
use crate::jobs::model::{Body, Job, State};
use crate::jobs::sqlite::Sqlite;
use crate::jobs::store::{Find, Keep, Sort, Store, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A prompt of a real size: 10 KiB of JSON, as a graph of 30 nodes has.
fn typical(seq: u64) -> Write {
    let node = |n: u64| {
        let text = format!(
            "a photograph of {} on a table, node {n}, seed {}",
            n * seq,
            seq.wrapping_mul(2_654_435_761 + n)
        );
        let inputs = serde_json::json!({ "text": text, "clip": [(n + 1).to_string(), 0], "seed": seq * n, "steps": 20,
            "cfg": 7.5, "sampler_name": "euler_ancestral", "scheduler": "karras", "model": [n.to_string(), 1] });
        (
            n.to_string(),
            serde_json::json!({ "class_type": "KSampler", "inputs": inputs, "_meta": { "title": "Sampler" } }),
        )
    };
    let body = Body { prompt: serde_json::Value::Object((0..30).map(node).collect()), ..body(seq) };
    Write::Accept { job: Box::new(job(seq)), body: Box::new(body) }
}

/// Of all threads: what is left to compare when the machine is busy with other things.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn report(what: &str, mut times: Vec<Duration>, took: Duration, cpu: Duration) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let rate = times.len() as f64 / took.as_secs_f64();
    println!(
        "{what:32} {rate:8.0} per second   p50 {:6.2} ms   p99 {:6.2} ms   most {:6.2} ms   CPU {:6.3} ms each",
        at(0.5),
        at(0.99),
        at(1.0),
        cpu.as_secs_f64() * 1e3 / times.len() as f64,
    );
}

/// `clients` each of which writes the next job when one is on disk.
async fn accept(ledger: &Ledger, next: &Arc<AtomicU64>, clients: usize, time: Duration) {
    let began = Instant::now();
    let busy = cpu();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (ledger, next) = (ledger.clone(), next.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < time {
                let write = typical(next.fetch_add(1, Ordering::Relaxed));
                let start = Instant::now();
                ledger.write(write).await.unwrap();
                times.push(start.elapsed());
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    report(&format!("accepts of {clients} clients"), times, began.elapsed(), cpu() - busy);
}

async fn at_a_rate(ledger: &Ledger, next: &Arc<AtomicU64>, rate: u32, time: Duration) {
    let began = Instant::now();
    let busy = cpu();
    let mut times = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
    while began.elapsed() < time {
        clock.tick().await;
        let write = typical(next.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        ledger.write(write).await.unwrap();
        times.push(start.elapsed());
    }
    report(&format!("accepts, {rate} in a second"), times, began.elapsed(), cpu() - busy);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn jobs_per_second() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (ledger, ..) = Ledger::open(&folder.path().join("jobs.db")).unwrap();
    let next = Arc::new(AtomicU64::new(1));
    at_a_rate(&ledger, &next, 50, Duration::from_secs(10)).await;
    for clients in [1, 8, 64, 256] {
        accept(&ledger, &next, clients, Duration::from_secs(5)).await;
    }
    at_a_rate(&ledger, &next, 50, Duration::from_secs(10)).await;
    let file = std::fs::File::create(folder.path().join("file")).unwrap();
    let mut syncs = Vec::new();
    let began = Instant::now();
    let busy = cpu();
    for n in 0..300u64 {
        let start = Instant::now();
        std::os::unix::fs::FileExt::write_at(&file, &[1; 4096], n * 4096).unwrap();
        file.sync_data().unwrap();
        syncs.push(start.elapsed());
    }
    report("fsync of 4 KiB, bare", syncs, began.elapsed(), cpu() - busy);
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn fill(file: &Path, all: u64, waiting: u64) {
    let mut store = Sqlite::open(file).unwrap();
    let seqs: Vec<u64> = (1..=all).collect();
    for part in seqs.chunks(1000) {
        let batch = part.iter().flat_map(|seq| {
            let state = if seq % 20 == 0 { State::Failed } else { State::Succeeded };
            let life = [
                typical(*seq),
                dispatch(*seq, 10 * seq),
                start(*seq, 10 * seq),
                end(*seq, state, 10 * seq + seq % 977),
            ];
            life.into_iter().take(if *seq > all - waiting { 1 } else { 4 })
        });
        store.write(&batch.collect::<Vec<_>>()).unwrap();
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn pages_of_many_jobs() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = folder.path().join("jobs.db");
    let began = Instant::now();
    fill(&file, 100_000, 10_000);
    let size = std::fs::metadata(&file).unwrap().len() >> 20;
    println!("100,000 jobs, 10,000 wait: {size} MiB, made in {:.1} s", began.elapsed().as_secs_f64());
    let before = memory();
    let began = Instant::now();
    let (ledger, jobs, _): (_, Vec<Job>, _) = Ledger::open(&file).unwrap();
    println!(
        "open: {:.0} ms, {} jobs, {} MiB more",
        began.elapsed().as_secs_f64() * 1e3,
        jobs.len(),
        memory() - before
    );
    let over = vec![State::Succeeded, State::Failed, State::Cancelled, State::Expired];
    let page = |sort, states: &[State], offset| Find {
        sort,
        states: states.to_vec(),
        offset,
        limit: Some(64),
        ..Find::default()
    };
    let pages = [
        ("newest", page(Sort::Accepted, &[], 0)),
        ("last ended", page(Sort::Ended, &over, 0)),
        ("last ended, page 1,000", page(Sort::Ended, &over, 64_000)),
        ("longest", page(Sort::Duration, &[], 0)),
        ("longest that failed", page(Sort::Duration, &[State::Failed], 0)),
        ("waiting", page(Sort::Accepted, &[State::Queued], 0)),
        ("running", page(Sort::Accepted, &[State::Running], 0)),
        ("of an owner", Find { owner: Some("owner-1".into()), ..page(Sort::Accepted, &[], 0) }),
        ("of an owner, last ended", Find { owner: Some("owner-1".into()), ..page(Sort::Ended, &over, 0) }),
    ];
    for (what, find) in pages {
        let mut times = Vec::new();
        let began = Instant::now();
        let busy = cpu();
        for _ in 0..20 {
            let start = Instant::now();
            let (jobs, _) = ledger.find(find.clone()).await.unwrap();
            let ids = jobs.into_iter().map(|job| job.id).collect();
            if what.contains("ended") {
                ledger.texts(ids).await.unwrap();
            }
            times.push(start.elapsed());
        }
        report(what, times, began.elapsed(), cpu() - busy);
    }
    println!("{} MiB more after all pages", memory() - before);
    let began = Instant::now();
    let keep = Keep { age_ms: u64::MAX, count: 80_000, bytes: u64::MAX };
    let gone = ledger.expire(keep, 0).await.unwrap();
    println!("{gone} expired in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let began = Instant::now();
    ledger.expire(keep, 0).await.unwrap();
    println!("nothing to expire: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    let began = Instant::now();
    ledger.backup(&folder.path().join("copy.db")).await.unwrap();
    println!("backup: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
}

/// For `tests/bench_jobs.py`, which says where, and how many.
#[test]
#[ignore = "writes the file of a measurement"]
fn a_file_of_many_jobs() {
    let file = std::env::var("STILLFRAME_BENCH_JOBS").unwrap();
    let counts = std::env::var("STILLFRAME_BENCH_COUNTS").unwrap();
    let counts: Vec<u64> = counts.split(' ').map(|count| count.parse().unwrap()).collect();
    fill(Path::new(&file), counts[0], counts[1]);
}
