//! Progress on standard error: a bar for people, lines of JSON for programs.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use vdisk::{NoProgress, Progress};

use crate::args::ProgressForm;

pub(crate) fn reporter(form: ProgressForm, quiet: bool) -> Box<dyn Progress> {
    match form {
        ProgressForm::Auto if quiet || !std::io::stderr().is_terminal() => Box::new(NoProgress),
        ProgressForm::Auto | ProgressForm::Bar => Box::new(Bar(ProgressBar::with_draw_target(
            None,
            ProgressDrawTarget::stderr_with_hz(10),
        ))),
        ProgressForm::Json => Box::new(Lines(Mutex::new(Phase::default()))),
        ProgressForm::None => Box::new(NoProgress),
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&self, phase: &str, total: u64) {
        let template = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style.progress_chars("=> "));
        }
        self.0.set_length(total);
        self.0.set_position(0);
        self.0.set_message(phase.to_owned());
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

struct Lines(Mutex<Phase>);

#[derive(Default)]
struct Phase {
    name: String,
    done: u64,
    total: u64,
    begun: Option<Instant>,
    told: Option<Instant>,
}

impl Lines {
    fn with(&self, change: impl FnOnce(&mut Phase) -> bool) {
        let mut phase = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = change(&mut phase);
        let due = phase.told.is_none_or(|told| told.elapsed() >= Duration::from_millis(500));
        if now || due {
            phase.told = Some(Instant::now());
            phase.tell();
        }
    }
}

impl Phase {
    fn tell(&self) {
        let millis = self.begun.map_or(0, |begun| begun.elapsed().as_millis()).max(1);
        let rate = u128::from(self.done) * 1000 / millis;
        let left = u128::from(self.total.saturating_sub(self.done));
        let eta = left.checked_div(rate).map(|seconds| u64::try_from(seconds).unwrap_or(u64::MAX));
        let line = json!({
            "phase": self.name,
            "done": self.done,
            "total": self.total,
            "bytes_per_second": u64::try_from(rate).unwrap_or(u64::MAX),
            "eta_seconds": eta,
        });
        // Nobody may be listening any more; the job goes on.
        drop(writeln!(std::io::stderr().lock(), "{line}"));
    }
}

impl Progress for Lines {
    fn begin(&self, phase: &str, total: u64) {
        self.with(|known| {
            *known = Phase {
                name: phase.to_owned(),
                total,
                begun: Some(Instant::now()),
                ..Phase::default()
            };
            true
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|phase| {
            phase.done += bytes;
            false
        });
    }

    fn end(&self) {
        self.with(|phase| {
            phase.done = phase.total;
            true
        });
    }
}
