//! `stillframe instances`: every instance with its GPU, state, age, restarts, queue and memory. Its name has its slot and
//! its generation, so that a line has 80 columns.
use super::documents::Instances;
use super::exit;
use super::fleet::{self, HostsArgs, each_says};
use super::printer::{Printer, age, bytes};
use crate::deploy::fleet::Member;
use crate::deploy::questions;
use crate::protocol::overview::InstanceView;
use crate::sys::error::Result;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &HostsArgs, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let (_, members) = fleet::chosen(&args.hosts, config, printer)?;
    printer.line(printer.bold(&format!(
        "{:14} {:9} {:8} {:11} {:>7} {:>8} {:>5} {:>10}",
        "HOST", "INSTANCE", "GPU", "STATE", "AGE", "RESTARTS", "QUEUE", "MEMORY"
    )));
    let ask = |member: &Member| questions::status(&member.remote()?, member.service.name());
    let (values, failed) = each_says(&members, printer, ask, |member, view| {
        let all: Vec<InstanceView> = view.services.iter().flat_map(|s| s.instances.clone()).collect();
        for i in &all {
            let gpus = if i.gpus.is_empty() { "-".to_string() } else { i.gpus.join(",") };
            printer.line(format!(
                "{:14} {:9} {:8} {:11} {:>7} {:>8} {:>5} {:>10}",
                member.name(),
                i.id,
                gpus,
                i.condition.name(),
                i.age_s.map_or("-".into(), age),
                i.restarts,
                i.queue.map_or("-".into(), |q| q.to_string()),
                i.memory_bytes.map_or("-".into(), bytes)
            ));
        }
        Instances { instances: all }
    });
    fleet::document(values, failed, printer);
    Ok(exit::code(failed))
}
