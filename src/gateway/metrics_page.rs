//! The page of metrics, in Prometheus' text format 0.0.4.
use crate::gateway::instance::Instance;
use crate::gateway::metrics::{BOUNDS, Metrics};
use crate::gateway::refusal::Fault;
use crate::gateway::shared::Gateway;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn text(gateway: &Gateway) -> String {
    let mut page = Page(String::new());
    let instances = gateway.router.all();
    answers(&mut page, &gateway.metrics, &instances);
    traffic(&mut page, gateway);
    jobs(&mut page, gateway);
    scaling(&mut page, gateway);
    open(&mut page, &instances);
    errors(&mut page, &gateway.metrics);
    times(&mut page, &gateway.metrics);
    page.0
}

/// Every instance, and whether it is draining.
type Instances = [(Arc<Instance>, bool)];

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn answers(page: &mut Page, metrics: &Metrics, instances: &Instances) {
    page.head("requests_total", "counter", "Requests answered, by instance and class of status.");
    let own = (metrics.own.iter().enumerate()).map(|(class, n)| ("", class, n));
    let others = instances.iter().flat_map(|(i, _)| {
        i.classes.iter().enumerate().map(|(class, n)| (i.id(), class, n)).collect::<Vec<_>>()
    });
    for (instance, class, count) in own.chain(others).filter(|(_, _, n)| read(n) > 0) {
        let labels = format!("instance=\"{instance}\",class=\"{}xx\"", class + 1);
        page.line("requests_total", &labels, read(count));
    }
}

fn traffic(page: &mut Page, gateway: &Gateway) {
    let metrics = &gateway.metrics;
    let held = gateway.waiting.count() as u64;
    let connections = gateway.connections.count() as u64;
    page.one("open_requests", "gauge", "Requests begun and not ended.", read(&metrics.open));
    page.one("held_requests", "gauge", "Requests that wait for an instance.", held);
    page.one("connections", "gauge", "Connections of clients.", connections);
    let sockets = gateway.hub.count() as u64;
    page.one("client_websockets", "gauge", "WebSockets that end at the gateway.", sockets);
    page.one("connections_total", "counter", "Connections accepted.", read(&metrics.connections));
    deliveries(page, gateway);
    page.one("received_bytes_total", "counter", "Bytes from clients to instances.", read(&metrics.received));
    page.one("sent_bytes_total", "counter", "Bytes from instances to clients.", read(&metrics.sent));
}

/// Where the gateway owns the jobs.
fn jobs(page: &mut Page, gateway: &Gateway) {
    let Some(engine) = gateway.jobs() else { return };
    let waiting = engine.waiting() as u64;
    page.one("jobs_waiting", "gauge", "Jobs that wait in the gateway.", waiting);
    let given = (engine.remaining() as u64).saturating_sub(waiting);
    page.one("jobs_at_instances", "gauge", "Jobs that instances have.", given);
    page.one(
        "jobs_refused",
        "gauge",
        "1 while no job can be accepted.",
        u64::from(engine.ledger.trouble().is_some()),
    );
    page.head("jobs_ended_total", "counter", "Jobs that have ended, by state.");
    for (state, count) in engine.ended.iter() {
        page.line("jobs_ended_total", &format!("state=\"{}\"", state.name()), read(count));
    }
}

/// Where the number of instances changes.
fn scaling(page: &mut Page, gateway: &Gateway) {
    let Some(view) = gateway.scaling.view() else { return };
    page.head("instances", "gauge", "Instances, by state.");
    let rest = view.actual.saturating_sub(view.ready);
    for (state, count) in
        [("ready", view.ready), ("not-ready", rest), ("off", view.maximum.saturating_sub(view.actual))]
    {
        page.line("instances", &format!("state=\"{state}\""), count);
    }
    page.one("instances_wanted", "gauge", "Instances that the policy asks for.", view.wanted.into());
    page.one("instances_minimum", "gauge", "Instances at least, at this hour.", view.minimum.into());
    page.one("instances_maximum", "gauge", "Instances at most, at this hour.", view.maximum.into());
    page.head("scaling_decisions_total", "counter", "Instances started and ended by the policy.");
    for (to, count) in [("up", &gateway.scaling.ups), ("down", &gateway.scaling.downs)] {
        page.line("scaling_decisions_total", &format!("to=\"{to}\""), read(count));
    }
    let failures = read(&gateway.scaling.failures);
    page.one("scaling_failures_total", "counter", "Decisions that could not be carried out.", failures);
    page.head("job_wait_seconds", "gauge", "How long jobs of the last minutes waited until they ran.");
    for (quantile, wait) in [("0.5", view.wait_p50_ms), ("0.95", view.wait_p95_ms)] {
        if let Some(ms) = wait {
            page.line("job_wait_seconds", &format!("quantile=\"{quantile}\""), ms as f64 / 1_000.0);
        }
    }
}

/// Webhooks and uploads, where this process owns the jobs.
fn deliveries(page: &mut Page, gateway: &Gateway) {
    let Some(deliveries) = gateway.jobs().and_then(|engine| engine.deliveries()) else { return };
    let [waiting, failed, delivered, failed_tries] = deliveries.counts();
    page.one("deliveries_waiting", "gauge", "Webhooks and uploads that wait for a try.", waiting);
    page.one("deliveries_failed", "gauge", "Webhooks and uploads that were given up and are kept.", failed);
    page.one("deliveries_total", "counter", "Webhooks and uploads delivered by this process.", delivered);
    page.one("delivery_failed_tries_total", "counter", "Tries of this process that failed.", failed_tries);
}

fn open(page: &mut Page, instances: &Instances) {
    page.head("instance_healthy", "gauge", "1 when the instance has new requests.");
    for (instance, draining) in instances {
        page.line("instance_healthy", &label(instance), u64::from(instance.is_healthy() && !draining));
    }
    page.head("instance_requests", "gauge", "Requests open on an instance.");
    for (instance, _) in instances {
        page.line("instance_requests", &label(instance), instance.open().0);
    }
    page.head("websockets", "gauge", "Upgraded connections, by instance.");
    for (instance, _) in instances {
        page.line("websockets", &label(instance), instance.open().1);
    }
}

fn label(instance: &Instance) -> String {
    format!("instance=\"{}\"", instance.id())
}

fn errors(page: &mut Page, metrics: &Metrics) {
    page.head("errors_total", "counter", "Answers that the gateway made itself, and cut ones, by kind.");
    for (fault, count) in Fault::ALL.iter().zip(&metrics.errors) {
        page.line("errors_total", &format!("kind=\"{}\"", fault.name()), read(count));
    }
}

fn times(page: &mut Page, metrics: &Metrics) {
    page.head("request_seconds", "histogram", "From the head of a request to the end of its answer.");
    let mut total = 0;
    for (bucket, count) in metrics.latency.iter().enumerate() {
        total += read(count);
        let bound =
            BOUNDS.get(bucket).map_or("+Inf".to_string(), |micros| format!("{}", *micros as f64 / 1e6));
        page.line("request_seconds_bucket", &format!("le=\"{bound}\""), total);
    }
    page.line("request_seconds_sum", "", read(&metrics.latency_micros) as f64 / 1e6);
    page.line("request_seconds_count", "", total);
    page.0.push_str("# HELP process_start_time_seconds Start of the process since the epoch.\n");
    page.0.push_str("# TYPE process_start_time_seconds gauge\n");
    // Writing to a string does not fail.
    let _ = writeln!(page.0, "process_start_time_seconds {:.3}", metrics.started.as_secs_f64());
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let name = format!("stillframe_gateway_{name}");
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "stillframe_gateway_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }
}
