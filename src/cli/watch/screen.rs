//! The screen of `watch`: drawn from the model alone, in 80 columns or more.
use super::model::{Host, Model, Steps};
use crate::cli::printer::{age, bytes, colours_wanted, plain};
use crate::protocol::messages::Status;
use crate::protocol::overview::{Condition, InstanceView, ServiceView};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

pub const LEAST: (u16, u16) = (60, 14);

const KEYS: &str = " q quit   ↑↓ host   l log   c cancel   r roll back ";

/// In the order in which they come; a failure takes the place of those that did not.
const STEPS: [Status; 7] = [
    Status::Queued,
    Status::Copying,
    Status::Starting,
    Status::Checking,
    Status::Rotating,
    Status::Draining,
    Status::Succeeded,
];

fn bold(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Style::new().add_modifier(Modifier::BOLD))
}

fn coloured(text: impl Into<String>, colour: Color) -> Span<'static> {
    let style = if colours_wanted() { Style::new().fg(colour) } else { Style::new() };
    Span::styled(text.into(), style)
}

/// To a width in characters, the end cut off with a mark.
fn fit(text: &str, width: usize) -> String {
    match text.chars().count() {
        n if n <= width => text.to_string(),
        _ => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("too small: {} x {} at least", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let hosts = hosts(model);
    let instances = instances(model);
    let steps = steps(model, usize::from(area.width));
    let height = |lines: &Vec<Line<'_>>, most: u16| (lines.len() as u16 + 1).min(most);
    let rows = match model.only_log {
        true => [1, 0, 0, 0],
        false => [
            1,
            height(&hosts, area.height / 3),
            height(&instances, area.height / 3),
            height(&steps, area.height / 4),
        ],
    };
    let [head, top, middle, low, log, foot] = Layout::vertical([
        Constraint::Length(rows[0]),
        Constraint::Length(rows[1]),
        Constraint::Length(rows[2]),
        Constraint::Length(rows[3]),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(header(model, usize::from(area.width)), head);
    panel(frame, top, "service", hosts);
    panel(frame, middle, "instances", instances);
    panel(frame, low, "deployment", steps);
    let (name, lines) = log_lines(model, log);
    panel(frame, log, &format!("log of {name}"), lines);
    frame.render_widget(footer(model, usize::from(area.width)), foot);
}

fn panel(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>) {
    if area.height == 0 {
        return;
    }
    let block = Block::new().borders(Borders::TOP).title(bold(format!(" {title} ")));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn header(model: &Model, width: usize) -> Line<'static> {
    let (ready, wanted) = model.ready();
    let hosts = match model.hosts.len() {
        1 => "1 host".to_string(),
        n => format!("{n} hosts"),
    };
    let left = format!(" {}  {hosts}", model.service);
    let count = format!("{ready} of {wanted} instances");
    let right = format!("   {} ", model.clock);
    let gap = width.saturating_sub(left.chars().count() + count.len() + right.len());
    let colour = if ready >= wanted && wanted > 0 { Color::Green } else { Color::Red };
    Line::from(vec![bold(left), Span::raw(" ".repeat(gap)), coloured(count, colour), Span::raw(right)])
}

fn footer(model: &Model, width: usize) -> Line<'static> {
    if let Some(act) = model.asking {
        return Line::from(coloured(fit(&format!(" {} [y/N]", act.question()), width), Color::Yellow));
    }
    match &model.told {
        Some(told) => Line::from(fit(&format!("{KEYS}| {}", plain(told)), width)),
        None => Line::from(fit(KEYS, width)),
    }
}

fn hosts(model: &Model) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (at, (name, host)) in model.hosts.iter().enumerate() {
        let mark = if at == model.chosen { "▸" } else { " " };
        let name = Span::raw(format!("{mark}{:14} ", fit(name, 14)));
        if let Some(error) = &host.error {
            lines.push(Line::from(vec![
                name,
                coloured(format!("does not answer: {}", plain(error)), Color::Red),
            ]));
            continue;
        }
        if let Some(silent) = host.silent(model.now) {
            let text = format!("has said nothing for {} s", silent.as_secs());
            lines.push(Line::from(vec![name, coloured(text, Color::Red)]));
            continue;
        }
        match host.view.as_ref().map(|v| v.services.as_slice()) {
            None => lines.push(Line::from(vec![name, Span::raw("asking …")])),
            Some([]) => lines.push(Line::from(vec![name, Span::raw("was never deployed to")])),
            Some(services) => {
                lines.extend(
                    services.iter().map(|s| Line::from([vec![name.clone()], service(model, s)].concat())),
                );
            }
        }
    }
    lines
}

fn service(model: &Model, service: &ServiceView) -> Vec<Span<'static>> {
    let serving = service.serving.and_then(|n| service.generations.iter().find(|g| g.generation == n));
    let what = match serving {
        Some(g) => {
            let known =
                model.known.get(&g.snapshot).cloned().unwrap_or_else(|| "a snapshot of elsewhere".into());
            format!("generation {} {known}", g.generation)
        }
        None => match &service.stopped {
            Some(stopped) => format!("was stopped by {}", plain(&stopped.by)),
            None => "serves nothing".to_string(),
        },
    };
    let address = service.address.map_or(String::new(), |a| a.to_string());
    let colour = if service.ready >= service.wanted { Color::Green } else { Color::Red };
    let mut spans = vec![
        Span::raw(format!("{:34} {address:21} ", fit(&what, 34))),
        coloured(format!("{}/{}", service.ready, service.wanted), colour),
    ];
    if service.held > 0 {
        spans.push(coloured(format!(" {} wait", service.held), Color::Yellow));
    }
    if service.gateway_error.is_some() {
        spans.push(coloured(" no gateway", Color::Red));
    }
    spans
}

fn instances(model: &Model) -> Vec<Line<'static>> {
    let title = format!(
        " {:12} {:8} {:>4} {:7} {:10} {:>6} {:>8} {:>5} {:>10}",
        "HOST", "INSTANCE", "SLOT", "GPU", "STATE", "AGE", "RESTARTS", "QUEUE", "MEMORY"
    );
    let mut lines = vec![Line::from(bold(title))];
    for (name, host) in &model.hosts {
        let services = host.view.iter().flat_map(|v| &v.services);
        lines.extend(services.flat_map(|s| &s.instances).map(|i| instance(name, i)));
    }
    lines
}

fn instance(host: &str, i: &InstanceView) -> Line<'static> {
    let colour = match i.condition {
        Condition::Healthy => Color::Green,
        Condition::Starting | Condition::Draining | Condition::Stopped => Color::Yellow,
        Condition::Unhealthy | Condition::Restarting | Condition::Failed => Color::Red,
    };
    let gpus = if i.gpus.is_empty() { "-".to_string() } else { i.gpus.join(",") };
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    Line::from(vec![
        Span::raw(format!(" {:12} {:8} {:>4} {:7} ", fit(host, 12), fit(&i.id, 8), i.slot, fit(&gpus, 7))),
        coloured(format!("{:10}", i.condition.name()), colour),
        Span::raw(format!(
            " {:>6} {:>8} {:>5} {:>10}",
            known(i.age_s.map(age)),
            i.restarts,
            known(i.queue.map(|q| q.to_string())),
            known(i.memory_bytes.map(bytes))
        )),
    ])
}

fn steps(model: &Model, width: usize) -> Vec<Line<'static>> {
    let all: Vec<(&String, &Host, &Steps)> =
        model.hosts.iter().filter_map(|(name, host)| Some((name, host, host.steps.as_ref()?))).collect();
    let Some((_, _, first)) = all.first() else { return vec![Line::from(" none since this began")] };
    let mut lines =
        vec![Line::from(format!(" {} by {}", first.attempt.kind.name(), plain(&first.attempt.by)))];
    for (name, _, steps) in all {
        let mut spans = vec![Span::raw(format!(" {:14} ", fit(name, 14)))];
        let now = steps.last.as_ref().map(|e| e.status);
        for status in STEPS {
            if now == Some(status) {
                let colour = if status == Status::Succeeded { Color::Green } else { Color::Yellow };
                spans.push(coloured(format!("[{}] ", status.name()), colour));
            } else if steps.passed.contains(&status) {
                spans.push(Span::raw(format!("{} ", status.name())));
            }
        }
        if let Some(bad) = now.filter(|s| s.is_final() && *s != Status::Succeeded) {
            spans.push(coloured(format!("[{}] ", bad.name()), Color::Red));
        }
        lines.push(Line::from(spans));
        if let Some(event) = &steps.last {
            let amount = event
                .bytes
                .map_or(String::new(), |(done, of)| format!(" ({} of {})", bytes(done), bytes(of)));
            let text = format!("{:16}{}{amount}", "", plain(event.text.lines().next().unwrap_or_default()));
            lines.push(Line::from(fit(&text, width)));
        }
    }
    lines
}

fn log_lines(model: &Model, area: Rect) -> (String, Vec<Line<'static>>) {
    let Some((name, host)) = model.chosen() else { return (String::new(), Vec::new()) };
    let room = usize::from(area.height.saturating_sub(1));
    let skip = host.log.len().saturating_sub(room);
    let width = usize::from(area.width);
    let lines = host.log.iter().skip(skip).map(|line| Line::from(fit(&format!(" {}", plain(line)), width)));
    (name.clone(), lines.collect())
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
