//! A host under maintenance, and its return: every service of it stops, and starts again as it was, whoever's it is.
use crate::deploy::events::Observer;
use crate::deploy::fleet::Member;
use crate::deploy::host_result::HostResult;
use crate::deploy::one_order::OneOrder;
use crate::deploy::questions;
use crate::protocol::maintenance::Maintenance;
use crate::protocol::messages::{Act, Order, Status};
use crate::sys::error::Result;
use crate::sys::progress::check_interrupt;
use schemars::JsonSchema;
use serde::Serialize;

/// What became of one service of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServiceResult {
    pub service: String,
    #[serde(flatten)]
    pub result: HostResult,
}

/// What became of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drained {
    /// Null where it is under maintenance no more.
    pub maintenance: Option<Maintenance>,
    pub services: Vec<ServiceResult>,
}

impl Drained {
    pub fn failed(&self) -> usize {
        self.services.iter().filter(|one| one.result.status != Status::Succeeded).count()
    }
}

/// `id`: of the attempts, the same on all hosts. The host refuses deployments before its first service stops.
pub fn drain(member: &Member, id: &str, by: &str, observer: &dyn Observer) -> Result<Drained> {
    let begun = questions::begin_maintenance(member, by)?;
    let services = each(member, &begun.services, &Act::Stop, id, by, observer);
    Ok(Drained { maintenance: Some(begun), services })
}

/// Where a service does not start the host stays under maintenance, so that this can be done again.
pub fn bring_back(member: &Member, id: &str, by: &str, observer: &dyn Observer) -> Result<Drained> {
    let Some(now) = questions::return_from_maintenance(member)? else {
        return Ok(Drained { maintenance: None, services: Vec::new() });
    };
    let services = each(member, &now.services, &Act::Start, id, by, observer);
    let done = Drained { maintenance: Some(now), services };
    if done.failed() > 0 || check_interrupt().is_err() {
        return Ok(done);
    }
    questions::end_maintenance(member)?;
    Ok(Drained { maintenance: None, ..done })
}

fn each(
    member: &Member,
    services: &[String],
    act: &Act,
    id: &str,
    by: &str,
    observer: &dyn Observer,
) -> Vec<ServiceResult> {
    let hosts = [member.name().to_string()];
    let order = OneOrder {
        id,
        by,
        kind: act.kind(),
        order: Order::Act { act: act.clone() },
        project: None,
        take_over: false,
        hosts: &hosts,
    };
    let mut results = Vec::new();
    for service in services {
        if check_interrupt().is_err() {
            break;
        }
        let (result, _) = order.give_to(member, service, observer);
        results.push(ServiceResult { service: service.clone(), result });
    }
    results
}
