//! The task that looks at the figures, decides, and has it carried out.
use crate::formats::comfy::api::paths;
use crate::gateway::access_log::Level;
use crate::gateway::jobs::call;
use crate::gateway::scaling::ask::{NotDone, ask};
use crate::gateway::scaling::figures;
use crate::gateway::shared::Gateway;
use crate::protocol::control::{ScalingSettings, ScalingView, Table};
use crate::protocol::scaling::{Decision, Figures, Life, Refused, SLOT_VERSION, SlotRequest, UpDown};
use crate::scaling::policy::{Action, Memory, Verdict, decide};
use crate::scaling::schedule::{Bounds, bounds};
use hyper::Method;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// After a question that came to nothing.
const AGAIN: Duration = Duration::from_secs(10);
/// A deployment ends by itself.
const BUSY: Duration = Duration::from_secs(2);
/// It frees memory between two jobs, and has none.
const FREE: Duration = Duration::from_secs(10);

/// What one task remembers.
#[derive(Default)]
struct Keeper {
    memory: Memory,
    /// Nothing is asked before this, and why.
    rests: Option<(Instant, String)>,
    /// The reason that was told last.
    told: String,
}

/// Until the gateway leaves.
pub async fn run(gateway: Arc<Gateway>) {
    let mut keeper = Keeper::default();
    while gateway.ending().is_none() {
        sleep(LOOK).await;
        match gateway.active().settings.scaling.clone() {
            Some(settings) => keeper.look(&gateway, &settings).await,
            None => {
                keeper = Keeper::default();
                gateway.scaling.set_view(None);
            }
        }
    }
}

impl Keeper {
    async fn look(&mut self, gateway: &Arc<Gateway>, settings: &ScalingSettings) {
        // Without its jobs this process knows nothing of the load.
        let Some(engine) = gateway.jobs() else { return };
        let figures = figures::collect(gateway, &engine, settings.start_ms);
        let order = settings.order.as_ref();
        let bounds = bounds(&settings.policy, order, settings.slots, figures.now);
        let paused = order.filter(|order| order.paused).map(|order| order.by.as_str());
        let before = self.memory.clone();
        let verdict = decide(&settings.policy, &bounds, settings.slots, paused, &figures, &mut self.memory);
        self.show(gateway, settings, &bounds, &figures, &verdict);
        let (slots, to) = match &verdict.action {
            Action::Stay => return,
            Action::Up(slots) => (slots, UpDown::Up),
            Action::Down(slots) => (slots, UpDown::Down),
        };
        if self.rests.as_ref().is_some_and(|(until, _)| *until > Instant::now()) {
            return self.memory.take_back(&before);
        }
        self.rests = None;
        let Some(generation) = serving(gateway) else { return self.memory.take_back(&before) };
        let (mut done, mut failed) = (0, None);
        for slot in slots {
            if to == UpDown::Down {
                free(gateway, *slot).await;
            }
            let request = SlotRequest { version: SLOT_VERSION, generation, slot: *slot, to };
            match ask(&settings.socket, &request).await {
                Ok(()) => done += 1,
                Err(why) => {
                    failed = Some(why);
                    break;
                }
            }
        }
        self.record(gateway, &figures, &verdict, (to, done), failed);
        if done == 0 {
            self.memory.take_back(&before);
        }
    }

    fn show(
        &self,
        gateway: &Gateway,
        settings: &ScalingSettings,
        bounds: &Bounds,
        figures: &Figures,
        verdict: &Verdict,
    ) {
        let waits = gateway.scaling.waits(figures.now);
        let why = match &self.rests {
            Some((until, rests)) if *until > Instant::now() && verdict.action != Action::Stay => {
                format!("{}; {rests}", verdict.why)
            }
            _ => verdict.why.clone(),
        };
        gateway.scaling.set_view(Some(ScalingView {
            minimum: bounds.minimum,
            maximum: bounds.maximum,
            wanted: verdict.wanted,
            actual: figures.instances.len() as u32,
            ready: figures.instances.iter().filter(|i| i.life == Life::Ready).count() as u32,
            why,
            order: settings.order.clone(),
            wait_p50_ms: waits.map(|(p50, _)| p50),
            wait_p95_ms: waits.map(|(_, p95)| p95),
            decisions: Vec::new(),
        }));
    }

    /// Every decision is told with its reason and its figures. That a deployment is waited for is no decision.
    fn record(
        &mut self,
        gateway: &Gateway,
        figures: &Figures,
        verdict: &Verdict,
        (to, done): (UpDown, u32),
        failed: Option<NotDone>,
    ) {
        let from = figures.instances.len() as u32;
        let (now, counter) = match to {
            UpDown::Up => (from + done, &gateway.scaling.ups),
            UpDown::Down => (from.saturating_sub(done), &gateway.scaling.downs),
        };
        counter.fetch_add(u64::from(done), Ordering::Relaxed);
        if let Some(NotDone { refused, why }) = &failed {
            let pause = if *refused == Refused::Busy { BUSY } else { AGAIN };
            self.rests = Some((Instant::now() + pause, why.clone()));
            if !matches!(refused, Refused::Busy | Refused::Occupied) {
                gateway.scaling.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        let failed = failed.map(|failed| failed.why);
        let told = format!("{from} -> {now} instances: {}", verdict.why);
        let told = match &failed {
            Some(why) => format!("{told}; not done: {why}"),
            None => told,
        };
        if done == 0 && told == self.told {
            return;
        }
        let level = if failed.is_some() { Level::Warning } else { Level::Info };
        gateway.log.note(level, &format!("scaling: {told}"));
        self.told = told;
        gateway.scaling.decided(Decision {
            at: figures.now,
            from,
            to: now,
            why: verdict.why.clone(),
            waiting: figures.waiting,
            given: figures.given,
            held: figures.held,
            failed,
        });
    }
}

/// The generation that the table is of, also where it names no instance.
fn serving(gateway: &Gateway) -> Option<u64> {
    let named = gateway.router.all().into_iter().find(|(_, draining)| !draining);
    if let Some((instance, _)) = named {
        return Some(instance.target.generation);
    }
    // In memory (/run): nothing is waited for.
    let bytes = std::fs::read(&gateway.active().settings.table).ok()?;
    serde_json::from_slice::<Table>(&bytes).ok()?.serving
}

/// What it holds in memory goes back before its process does, so that a driver is not left with it.
async fn free(gateway: &Gateway, slot: u32) {
    let all = gateway.router.all();
    let Some((instance, _)) = all.iter().find(|(i, draining)| !draining && i.target.slot == slot) else {
        return;
    };
    let body = json!({"unload_models": true, "free_memory": true}).to_string();
    if let Err(e) = call::ask(instance, Method::POST, paths::FREE, Some(body.into()), FREE).await {
        gateway.log.note(Level::Warning, &format!("scaling: {} did not free its memory: {e}", instance.id()));
    }
}
