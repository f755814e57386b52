//! The decision: how many instances there are to be, and which slots start or end for that. It reads no clock and changes
//! nothing but its own memory of the last minutes.
//!
//! More instances come as soon as the figures ask for them, a step at a time. Fewer come only where the figures asked for
//! fewer during the whole idle time: so a load that goes up and down keeps what its peaks need, and nothing flaps.
use crate::protocol::scaling::{Figures, InstanceFigure, Life, Policy, Target};
use crate::scaling::schedule::Bounds;
use std::collections::VecDeque;

/// Of several jobs in a row on one instance.
const MOST_IN_A_ROW: u64 = 10_000;

/// What is remembered from one decision to the next.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    /// Since when there are figures without a gap.
    began: Option<u64>,
    /// How many were needed, and when: of the last idle time, each more than all that came after it.
    needs: VecDeque<(u64, u32)>,
    grew: Option<u64>,
    shrank: Option<u64>,
    /// How many instances there were.
    seen: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Stay,
    /// These slots get an instance.
    Up(Vec<u32>),
    /// The instances of these slots end: they have nothing to do.
    Down(Vec<u32>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many there are to be in the end. A step, or a pause between two, may be in the way.
    pub wanted: u32,
    pub action: Action,
    pub why: String,
}

/// How many instances the figures need, whatever the bounds.
pub fn need(policy: &Policy, figures: &Figures) -> u32 {
    let open = figures.waiting.saturating_add(figures.given);
    if open == 0 {
        let asked = figures.held > 0 || figures.requests || figures.instances.iter().any(|i| i.busy);
        return u32::from(asked);
    }
    let in_a_row = match policy.target {
        Target::Waiting(jobs) => u64::from(jobs),
        // So many jobs fit into the time that the last of them may wait.
        Target::WaitMs(limit) => figures.job_ms.map_or(1, |job| limit / job.max(1)),
    };
    let by_count = open.div_ceil(in_a_row.min(MOST_IN_A_ROW) + 1);
    let count = |life| figures.instances.iter().filter(|i| i.life == life).count() as u64;
    let late = match policy.target {
        // Jobs took longer than was thought. What still starts is waited for first.
        Target::WaitMs(limit) if figures.waiting > 0 && figures.oldest_ms > limit => {
            count(Life::Ready) + u64::from(count(Life::Starting) == 0)
        }
        _ => 0,
    };
    u32::try_from(by_count.max(late)).unwrap_or(u32::MAX)
}

/// `slots`: how many places there are; `paused`: who has said that nothing is to change.
pub fn decide(
    policy: &Policy,
    bounds: &Bounds,
    slots: u32,
    paused: Option<&str>,
    figures: &Figures,
    memory: &mut Memory,
) -> Verdict {
    let now = figures.now;
    let needed = need(policy, figures);
    let current = figures.instances.len() as u32;
    // What a deployment or an operator has just brought is not taken away before anybody could come.
    let brought = if current > std::mem::replace(&mut memory.seen, current) { current } else { 0 };
    memory.learn(now, needed.max(brought), policy.idle_ms);
    let wanted = needed.clamp(bounds.minimum, bounds.maximum);
    let load = load(figures);
    let stay = |wanted, why: String| Verdict { wanted, action: Action::Stay, why };
    if let Some(by) = paused {
        return stay(current, format!("paused by {by}: {load} would ask for {wanted}"));
    }
    if current < bounds.minimum || (current < bounds.maximum && working(figures) < wanted) {
        return more(policy, bounds, slots, figures, memory, wanted);
    }
    if current > bounds.maximum {
        let why = format!("{} allows {}", bounds.why, bounds.maximum);
        return fewer(figures, memory, current - bounds.maximum, bounds.maximum, why);
    }
    let kept = memory.peak().max(wanted);
    if current <= kept {
        return stay(wanted.max(current.min(kept)), reason(bounds, wanted, kept, current, &load));
    }
    let idle = format!("{load}, and no more than {kept} needed for {}", span(policy.idle_ms));
    if memory.began.is_none_or(|began| now.saturating_sub(began) < policy.idle_ms) {
        return stay(
            current,
            format!("{load}; the load has been watched for less than {}", span(policy.idle_ms)),
        );
    }
    if !memory.has_cooled(now, policy.cool_down_ms) {
        return stay(kept, format!("{idle}; {} between two changes", span(policy.cool_down_ms)));
    }
    fewer(figures, memory, (current - kept).min(policy.step.max(1)), kept, idle)
}

/// Instances that take jobs, or soon will.
fn working(figures: &Figures) -> u32 {
    figures.instances.iter().filter(|i| i.life != Life::Failing).count() as u32
}

fn more(
    policy: &Policy,
    bounds: &Bounds,
    slots: u32,
    figures: &Figures,
    memory: &mut Memory,
    wanted: u32,
) -> Verdict {
    let current = figures.instances.len() as u32;
    let lacking = bounds.minimum.saturating_sub(current);
    let load = load(figures);
    let stepped = wanted.saturating_sub(working(figures)).min(policy.step.max(1));
    let cool = memory.grew.is_none_or(|at| figures.now.saturating_sub(at) >= policy.cool_down_ms);
    // Nobody waits for a pause where nothing runs at all.
    let stepped = if cool || current == 0 { stepped } else { 0 };
    let count = lacking.max(stepped).min(bounds.maximum.saturating_sub(current));
    let why = if lacking > 0 {
        format!("{} asks for {} at least", bounds.why, bounds.minimum)
    } else {
        format!("{load}: {} needed", wanted)
    };
    let free = (0..slots).filter(|slot| figures.instances.iter().all(|i| i.slot != *slot));
    let slots: Vec<u32> = free.take(count as usize).collect();
    if slots.is_empty() {
        let why = format!("{why}; {} between two changes", span(policy.cool_down_ms));
        return Verdict { wanted, action: Action::Stay, why };
    }
    memory.grew = Some(figures.now);
    Verdict { wanted, action: Action::Up(slots), why }
}

/// `count` instances end, of those that have nothing to do: first what does not work anyway, then the highest slots.
fn fewer(figures: &Figures, memory: &mut Memory, count: u32, wanted: u32, why: String) -> Verdict {
    let mut idle: Vec<&InstanceFigure> = figures.instances.iter().filter(|i| !i.busy).collect();
    let order = |i: &InstanceFigure| match i.life {
        Life::Failing => 0,
        Life::Starting => 1,
        Life::Ready => 2,
    };
    idle.sort_by_key(|i| (order(i), std::cmp::Reverse(i.slot)));
    let slots: Vec<u32> = idle.iter().take(count as usize).map(|i| i.slot).collect();
    if slots.is_empty() {
        return Verdict { wanted, action: Action::Stay, why: format!("{why}; each has something to do") };
    }
    memory.shrank = Some(figures.now);
    Verdict { wanted, action: Action::Down(slots), why }
}

fn reason(bounds: &Bounds, wanted: u32, kept: u32, current: u32, load: &str) -> String {
    if kept > wanted && current == kept {
        return format!("{load}; {kept} were needed a short while ago");
    }
    if wanted == bounds.maximum && wanted > bounds.minimum {
        return format!("{load}: {} allows {wanted} at most", bounds.why);
    }
    if wanted == bounds.minimum {
        return format!("{load}: {} asks for {wanted} at least", bounds.why);
    }
    format!("{load}: {wanted} needed")
}

fn load(figures: &Figures) -> String {
    let mut parts = Vec::new();
    if figures.waiting > 0 || figures.given > 0 {
        parts.push(format!("{} jobs wait and {} are at instances", figures.waiting, figures.given));
    }
    if figures.held > 0 {
        parts.push(format!("{} requests wait", figures.held));
    }
    if parts.is_empty() {
        let quiet = if figures.requests { "no jobs, some requests" } else { "no jobs" };
        parts.push(quiet.to_string());
    }
    parts.join(", ")
}

fn span(ms: u64) -> String {
    if ms.is_multiple_of(60_000) && ms > 0 {
        format!("{} min", ms / 60_000)
    } else {
        format!("{} s", ms as f64 / 1_000.0)
    }
}

impl Memory {
    fn learn(&mut self, now: u64, need: u32, idle_ms: u64) {
        // A clock that was set back has no past.
        if self.began.is_none_or(|began| began > now) {
            *self = Memory { began: Some(now), seen: self.seen, ..Memory::default() };
        }
        while self.needs.back().is_some_and(|(_, before)| *before <= need) {
            self.needs.pop_back();
        }
        self.needs.push_back((now, need));
        while self.needs.front().is_some_and(|(at, _)| now.saturating_sub(*at) > idle_ms) {
            self.needs.pop_front();
        }
    }

    /// The most that was needed during the idle time.
    fn peak(&self) -> u32 {
        self.needs.front().map_or(0, |(_, need)| *need)
    }

    fn has_cooled(&self, now: u64, cool_down_ms: u64) -> bool {
        [self.grew, self.shrank].iter().flatten().all(|at| now.saturating_sub(*at) >= cool_down_ms)
    }

    /// The action was not carried out: nothing was changed by it.
    pub fn take_back(&mut self, before: &Memory) {
        (self.grew, self.shrank) = (before.grew, before.shrank);
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
