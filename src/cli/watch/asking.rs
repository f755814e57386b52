//! What `watch` asks of each host for as long as somebody looks: its state, the deployment under way, its log.
use super::model::News;
use crate::deploy::events::Event;
use crate::deploy::fleet::Member;
use crate::deploy::questions::{self, LogOf};
use crate::protocol::overview::HostView;
use crate::ship::ssh::Remote;
use crate::sys::error::Result;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Between two questions to a host.
const PAUSE: Duration = Duration::from_secs(1);
/// A host that did not answer is asked again after this.
const LOST: Duration = Duration::from_secs(5);
/// So often a deployment's line is taken up again.
const TRIES: u32 = 100;

/// Asks one host for as long as somebody watches.
pub fn ask_on(member: &Member, tell: &Sender<News>, ended: &AtomicBool) {
    let name = member.name().to_string();
    let mut seen: Option<u64> = None;
    let logging = Arc::new(AtomicBool::new(false));
    let mut begun = false;
    let mut remote: Option<Remote> = None;
    while !ended.load(Ordering::SeqCst) {
        let began = Instant::now();
        let news = match view(member, &mut remote) {
            Ok(view) => {
                let newest = newest(&view);
                // One that was over before anybody watched is history; one that begins and ends between two
                // looks is not missed.
                let known = *seen.get_or_insert(newest.1);
                if newest.0.max(newest.1) > known {
                    seen = Some(newest.0.max(newest.1));
                    let (member, tell) = (member.clone(), tell.clone());
                    std::thread::spawn(move || follow(&member, &tell));
                }
                if !logging.swap(true, Ordering::SeqCst) {
                    let (member, tell, logging) = (member.clone(), tell.clone(), logging.clone());
                    // What was shown before the line was cut is not shown again.
                    let lines = if begun { 0 } else { 50 };
                    std::thread::spawn(move || {
                        log(&member, &tell, lines);
                        logging.store(false, Ordering::SeqCst);
                    });
                    begun = true;
                }
                News::View(name.clone(), Box::new(view))
            }
            Err(e) => {
                remote = None;
                News::Lost(name.clone(), e.full())
            }
        };
        let pause = if matches!(news, News::Lost(..)) { LOST } else { PAUSE };
        if tell.send(news).is_err() {
            return;
        }
        std::thread::sleep(pause.saturating_sub(began.elapsed()));
    }
}

/// The attempt under way, and the newest that made a generation; 0 for none.
fn newest(view: &HostView) -> (u64, u64) {
    let services = || view.services.iter();
    let under_way = services().filter_map(|s| s.deployment.as_ref().map(|h| h.attempt)).max();
    let made = services().flat_map(|s| &s.generations).map(|g| g.attempt).max();
    (under_way.unwrap_or(0), made.unwrap_or(0))
}

fn view(member: &Member, remote: &mut Option<Remote>) -> Result<HostView> {
    let remote = match remote {
        Some(remote) => remote,
        none => none.insert(member.remote()?),
    };
    questions::status(remote, member.service.name())
}

/// The deployment under way, from its first event to its last; a line that is cut is taken up again.
fn follow(member: &Member, tell: &Sender<News>) {
    for _ in 0..TRIES {
        let mut over = false;
        // A host that is not reached is asked again, like one whose line ended early.
        let _ = questions::follow(member, |event| {
            let (last, news) = match event {
                Event::Attempt { host, attempt, .. } => (false, News::Attempt(host, Box::new(attempt))),
                Event::Event { host, event } => (event.outcome.is_some(), News::Step(host, Box::new(event))),
                _ => return ControlFlow::Continue(()),
            };
            over = tell.send(news).is_err() || last;
            if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if over {
            return;
        }
        std::thread::sleep(LOST);
    }
}

fn log(member: &Member, tell: &Sender<News>, lines: u32) {
    let of = LogOf { part: None, lines, follow: true, json: false };
    // A line that is cut is taken up again by who asks for the state.
    let _ = questions::log(member, of, |line| {
        let news = News::Log(member.name().to_string(), line.trim_end().to_string());
        match tell.send(news) {
            Ok(()) => ControlFlow::Continue(()),
            // Nobody watches any more.
            Err(_) => ControlFlow::Break(()),
        }
    });
}
