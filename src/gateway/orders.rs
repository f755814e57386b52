//! What a running gateway can be told and asked, by the agent (`control_socket`) and by the process that took
//! over from it (`upgrade`). An order is passed on to the process before this one for as long as that lives.
use crate::gateway::access_log::Level;
use crate::gateway::client::Phase;
use crate::gateway::faults;
use crate::gateway::health;
use crate::gateway::instance::FirstHealth;
use crate::gateway::jobs::service;
use crate::gateway::router::check_table;
use crate::gateway::settings;
use crate::gateway::shared::Gateway;
use crate::protocol::control::{Reply, Table, TargetStatus};
use crate::sys::files;
use std::sync::Arc;

/// The status of this process and of the one before it, as one.
pub async fn status(gateway: &Gateway) -> Result<Reply, String> {
    let mut reply = Reply { targets: targets(gateway), held: gateway.waiting.count(), ..Reply::default() };
    reply.waiting_jobs =
        gateway.owns_jobs().then(|| gateway.jobs().map_or(0, |engine| engine.waiting() as u64));
    reply.scaling = gateway.scaling.view();
    if let Some(before) = gateway.predecessor()
        && let Some(its) = before.status().await?
    {
        reply.held += its.held;
        add(&mut reply.targets, its.targets);
    }
    Ok(reply)
}

/// With the jobs of each. One that left the table and still has some is among them.
fn targets(gateway: &Gateway) -> Vec<TargetStatus> {
    let mut targets = gateway.router.status();
    let Some(engine) = gateway.jobs() else { return targets };
    for (instance, draining) in gateway.router.all() {
        let jobs = engine.jobs_of(instance.id());
        match targets.iter_mut().find(|t| t.id == instance.id()) {
            Some(target) => target.jobs = jobs,
            None if jobs > 0 => targets.push(TargetStatus { jobs, ..instance.status(draining) }),
            None => {}
        }
    }
    targets
}

fn add(ours: &mut Vec<TargetStatus>, theirs: Vec<TargetStatus>) {
    for its in theirs {
        if let Some(same) = ours.iter_mut().find(|t| t.id == its.id) {
            same.requests += its.requests;
            same.websockets += its.websockets;
            same.served += its.served;
            same.failed += its.failed;
            same.jobs += its.jobs;
        } else if its.requests + its.websockets + its.jobs > 0 {
            ours.push(TargetStatus { draining: true, healthy: false, ..its });
        }
    }
}

pub async fn set(gateway: &Arc<Gateway>, table: Table) -> Result<(), String> {
    let _turn = gateway.turn.lock().await;
    if gateway.ending().is_some() {
        return Err("another process has taken over".into());
    }
    check_table(&table)?;
    let file = gateway.active().settings.table.clone();
    let bytes = serde_json::to_vec_pretty(&table).map_err(|e| e.to_string())?;
    faults::point(gateway, "gateway/table").await?;
    // Syncing takes milliseconds, during which requests go on.
    let written = tokio::task::spawn_blocking(move || files::write_atomic(&file, &bytes)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(e)) => {
            let cause = e.source.as_deref().map(|s| format!(": {s}")).unwrap_or_default();
            return Err(format!("the table is as before: {e}{cause}"));
        }
        Err(e) => return Err(format!("the table is as before: {e}")),
    }
    faults::point(gateway, "gateway/table-written").await?;
    apply(gateway, &table);
    faults::point(gateway, "gateway/table-set").await?;
    let ids: Vec<&str> = table.targets.iter().map(|t| t.id.as_str()).collect();
    gateway.log.note(Level::Info, &format!("the table is now: {}", ids.join(" ")));
    if let Some(before) = gateway.predecessor() {
        before.set(table).await?;
    }
    Ok(())
}

/// Swaps the table, without writing it.
pub fn apply(gateway: &Arc<Gateway>, table: &Table) {
    let fresh = gateway.router.set_with(&table.targets, FirstHealth::Well, &table.starting);
    health::watch(gateway, fresh);
    service::table_changed(gateway);
}

pub async fn cut(gateway: &Arc<Gateway>, id: &str) -> Result<(), String> {
    service::release(gateway, id).await;
    cut_here(gateway, id)?;
    if let Some(before) = gateway.predecessor() {
        before.cut(id).await?;
    }
    gateway.log.note(Level::Warning, &format!("{id} was cut"));
    Ok(())
}

pub fn cut_here(gateway: &Gateway, id: &str) -> Result<(), String> {
    let gone = gateway.router.cut(id)?;
    gateway.connections.each(|client| {
        if gone.iter().any(|instance| client.is_served_by(instance.number)) {
            // Its client may not be reading, and then nothing else would end it.
            client.expire(Phase::Stream);
        }
    });
    gateway.connections.wake_all();
    gateway.tunnels.end(|tunnel| tunnel.instance.is_cut());
    Ok(())
}

/// Reads the settings file again.
pub async fn reload(gateway: &Arc<Gateway>) -> Result<(), String> {
    let _turn = gateway.turn.lock().await;
    faults::point(gateway, "gateway/settings").await?;
    let new = settings::read(&gateway.settings_file).map_err(|e| {
        let cause = e.source.as_deref().map(|s| format!(": {s}")).unwrap_or_default();
        format!("the settings are as before: {e}{cause}")
    })?;
    let (new, kept) = settings::renew(&gateway.active().settings, new);
    let jobs = new.settings.jobs.clone();
    gateway.set_active(new);
    match (gateway.jobs(), jobs) {
        (Some(engine), Some(jobs)) => {
            engine.set_settings(jobs.rules);
            engine.wake_deliveries();
        }
        (None, Some(jobs)) => {
            service::start(gateway, &jobs)
                .map_err(|e| format!("the jobs stay the instances' own: {}", e.full()))?;
        }
        (Some(_), None) => {
            let text = "the gateway owns the jobs until it is started again";
            gateway.log.note(Level::Warning, text);
        }
        (None, None) => {}
    }
    for name in kept {
        gateway.log.note(Level::Warning, &format!("{name} changes when the gateway is started again"));
    }
    gateway.log.note(Level::Info, "the settings were read again");
    faults::point(gateway, "gateway/settings-set").await?;
    Ok(())
}
