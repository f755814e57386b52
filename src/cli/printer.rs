//! The one place that writes to the terminal: text or JSON, colours only on a terminal, progress with
//! bytes and time left, and errors with their sources and what to do next.
use super::documents::{Document, Versioned};
use super::output::Output;
use crate::capture::model::report::{Finding, Severity};
use crate::deploy::events::Failure;
use crate::sys::error::Error;
use crate::sys::progress::{Amount, Progress, Silent};
use crate::sys::say::say;
use crate::words::{harmless, harmless_json};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone)]
pub struct Printer {
    pub json: bool,
    /// With `--json`, one document a line.
    stream: bool,
    colour: bool,
    progress: Arc<dyn Progress>,
    output: Arc<Output>,
}

/// No colour where the user says so (no-color.org: the variable is there and not empty).
pub fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Printer {
    pub fn new(json: bool, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let progress: Arc<dyn Progress> = if quiet || json {
            Arc::new(Silent)
        } else if terminal {
            Arc::new(Bar::default())
        } else {
            Arc::new(Plain::default())
        };
        let progress: Arc<dyn Progress> = Arc::new(Traced(progress));
        let colour = std::io::stdout().is_terminal() && colours_wanted();
        Printer { json, stream: false, colour, progress, output: Arc::default() }
    }

    /// Of a command whose output with `--json` is a stream.
    pub fn of_stream(self) -> Self {
        Printer { stream: true, ..self }
    }

    pub fn output(&self) -> &Output {
        &self.output
    }

    pub fn progress(&self) -> &Arc<dyn Progress> {
        &self.progress
    }

    /// A line of the result.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            self.progress.aside(&mut || self.output.line(text.as_ref()));
        }
    }

    /// The document of a command, with `--json`.
    pub fn value(&self, document: &impl Document) {
        self.whole(&Versioned::of(document));
    }

    /// One that says its own version.
    pub fn whole(&self, document: &impl Serialize) {
        if self.json {
            self.write(&format!("{:#}", json!(document)));
        }
    }

    /// What was asked for is a document itself, with `--json` or without.
    pub fn document(&self, value: &Value) {
        self.write(&format!("{value:#}"));
    }

    /// One line of a stream: what happens, as it happens.
    pub fn event(&self, event: &impl Serialize) {
        if !self.json {
            return;
        }
        match serde_json::to_string(event) {
            Ok(text) => self.write(&text),
            // Types of ours have nothing that JSON cannot say; were there one, it must not go unseen.
            Err(e) => self.warning(&format!("an event cannot be printed: {e}")),
        }
    }

    /// A line of what was asked for as JSON lines, with `--json` or without.
    pub fn data(&self, line: &impl Serialize) {
        Printer { json: true, ..self.clone() }.event(line);
    }

    /// Worth knowing, whatever is printed of the rest.
    pub fn warning(&self, text: &str) {
        self.progress.aside(&mut || say(harmless(text)));
    }

    fn write(&self, text: &str) {
        self.raw(&format!("{}\n", harmless_json(text)));
    }

    /// A document that is not ours to format.
    pub fn raw(&self, text: &str) {
        self.progress.aside(&mut || self.output.raw(text));
    }

    pub fn note(&self, text: &str) {
        self.progress.note(text);
        if self.json {
            say(harmless(text));
        }
    }

    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into() }
    }

    pub fn finding(&self, finding: &Finding) -> String {
        let (mark, code) = match finding.severity {
            Severity::Problem => ("problem", "31"),
            Severity::Warning => ("warning", "33"),
            Severity::Info => ("info", "2"),
        };
        let mark = self.paint(code, &format!("{mark:7}"));
        format!("  {mark} {}: {}", plain(&finding.path), plain(&finding.message))
    }

    /// With `--json` a document of its own, and a line of the stream where the command prints one.
    pub fn error(&self, error: &Error) {
        if !self.json {
            return self.error_text(error);
        }
        let line = json!({"error": error.report()});
        self.write(&if self.stream { line.to_string() } else { format!("{line:#}") });
        // Nobody got it: it is told to whoever is left.
        if self.output.is_gone() {
            say_failure(&error.report());
        }
    }

    /// For people alone: where a document has it too.
    pub fn error_text(&self, error: &Error) {
        self.failure(&error.report());
    }

    /// The same of an error that was told by an event.
    pub fn failure(&self, failure: &Failure) {
        if !self.json {
            // With the bars out of its way.
            self.progress.aside(&mut || say_failure(failure));
        }
    }
}

fn say_failure(failure: &Failure) {
    say(failure_text(failure));
}

fn failure_text(failure: &Failure) -> String {
    let mut text = format!("error: {}", lines(&failure.message));
    for cause in &failure.causes {
        text.push_str(&format!("\n  because: {}", lines(cause)));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("\n  hint: {}", lines(hint)));
    }
    text
}

/// Text of an environment, which may be hostile: it can neither break a line nor move the cursor.
pub fn plain(text: &str) -> String {
    crate::words::show(text.as_bytes())
}

/// The same, where a text of several lines is expected.
pub fn lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

pub fn bytes(amount: u64) -> String {
    HumanBytes(amount).to_string()
}

/// A span of seconds in its two largest units.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Tells the log of each stage (`STILLFRAME_LOG=debug`), for whoever wants to know where time goes.
struct Traced(Arc<dyn Progress>);

impl Progress for Traced {
    fn stage(&self, name: &str, of: Amount) {
        tracing::debug!(total = of.total(), "{name}");
        self.0.stage(name, of);
    }

    fn advance(&self, amount: u64) {
        self.0.advance(amount);
    }

    fn note(&self, text: &str) {
        self.0.note(text);
    }

    fn beside(&self, name: &str, bytes: u64) -> Box<dyn Progress> {
        tracing::debug!(total = bytes, "{name}");
        self.0.beside(name, bytes)
    }

    fn aside(&self, print: &mut dyn FnMut()) {
        self.0.aside(print);
    }
}

/// A bar on a terminal, and one more for each work beside it.
#[derive(Default)]
struct Bar {
    all: MultiProgress,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn begin(&self, name: &str, of: Amount) -> ProgressBar {
        // The bar has what 80 columns leave: the longest of the others have 67.
        const IN_BYTES: &str = "{msg:24!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        const IN_ITEMS: &str = "{msg:24!} {wide_bar} {pos}/{len} {eta}";
        let (bar, template) = match of {
            Amount::Bytes(0) | Amount::Items(0) | Amount::Unknown => {
                (ProgressBar::new_spinner(), "{msg:32} {elapsed}")
            }
            Amount::Bytes(total) => (ProgressBar::new(total), IN_BYTES),
            Amount::Items(total) => (ProgressBar::new(total), IN_ITEMS),
        };
        let bar = self.all.add(bar);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

impl Progress for Bar {
    fn stage(&self, name: &str, of: Amount) {
        let bar = self.begin(name, of);
        let mut held = self.bar.lock();
        if let Some(old) = held.replace(bar) {
            old.finish_and_clear();
        }
    }

    fn advance(&self, amount: u64) {
        if let Some(bar) = self.bar.lock().as_ref() {
            bar.inc(amount);
        }
    }

    fn note(&self, text: &str) {
        self.all.suspend(|| say(harmless(text)));
    }

    fn beside(&self, name: &str, bytes: u64) -> Box<dyn Progress> {
        let bar = Mutex::new(Some(self.begin(name, Amount::Bytes(bytes))));
        Box::new(Bar { all: self.all.clone(), bar })
    }

    fn aside(&self, print: &mut dyn FnMut()) {
        self.all.suspend(print);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.lock().take() {
            bar.finish_and_clear();
        }
    }
}

/// Plain lines where there is no terminal: a stage's name, and every few seconds how far it is.
#[derive(Default)]
struct Plain {
    state: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    of: Amount,
    done: u64,
    started: Instant,
    said: Instant,
}

const SAY_EVERY: Duration = Duration::from_secs(3);

impl Progress for Plain {
    fn stage(&self, name: &str, of: Amount) {
        let now = Instant::now();
        let stage = Stage { name: name.into(), of, done: 0, started: now, said: now };
        *self.state.lock() = Some(stage);
    }

    fn advance(&self, amount: u64) {
        let mut held = self.state.lock();
        let Some(stage) = held.as_mut() else { return };
        stage.done += amount;
        if stage.said.elapsed() < SAY_EVERY {
            return;
        }
        stage.said = Instant::now();
        let in_bytes = matches!(stage.of, Amount::Bytes(_));
        let show = |n| if in_bytes { bytes(n) } else { n.to_string() };
        let rate = stage.done as f64 / stage.started.elapsed().as_secs_f64().max(0.001);
        let speed = if in_bytes { format!(", {}/s", bytes(rate as u64)) } else { String::new() };
        let total = stage.of.total();
        let left = total
            .filter(|t| *t > stage.done && stage.done > 0)
            .map(|total| format!("{speed}, {:.0} s left", (total - stage.done) as f64 / rate));
        let total = total.map(|t| format!(" of {}", show(t))).unwrap_or_default();
        say(format_args!("{}: {}{total}{}", stage.name, show(stage.done), left.unwrap_or_default()));
    }

    fn note(&self, text: &str) {
        say(harmless(text));
    }

    fn beside(&self, name: &str, bytes: u64) -> Box<dyn Progress> {
        let plain = Plain::default();
        plain.stage(name, Amount::Bytes(bytes));
        Box::new(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!([5, 65, 3725, 90_061].map(age), ["5s", "1min", "1h02", "1d01h"]);
    }
}
