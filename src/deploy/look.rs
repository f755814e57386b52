//! What a host has and lacks for its service, as far as that is described yet. Changes nothing.
use crate::deploy::fleet::Member;
use crate::ship::copy;
use crate::ship::preflight::{self, Facts, Needs, Problem};
use crate::sys::error::Result;

/// What a host says of itself, and what is wrong with it.
pub fn look(member: &Member) -> Result<(Facts, Vec<Problem>)> {
    let needs = member.needs(member.smoke()?.as_ref());
    let facts = copy::look(&member.host.target, &needs)?;
    let problems = problems(member, &facts, &needs);
    Ok((facts, problems))
}

fn problems(member: &Member, facts: &Facts, needs: &Needs) -> Vec<Problem> {
    let needs = match member.service.spec(&facts.gpus, Vec::new(), None) {
        Ok(spec) => Needs {
            gpus: spec.slots.iter().flatten().cloned().collect(),
            memory_bytes: spec.memory_bytes.unwrap_or(0) * u64::from(spec.instances),
            ..needs.clone()
        },
        Err(_) => Needs { prepared: true, ..Needs::default() },
    };
    preflight::check(facts, &needs)
}
