//! A progress bar per stage on a terminal; elsewhere a line per stage.

use std::{collections::BTreeMap, io::IsTerminal as _, sync::Mutex, time::Duration};

use engine::{Event, Outcome};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows the events of a run on standard error.
pub(crate) struct Progress {
    bars: MultiProgress,
    is_terminal: bool,
    show: bool,
    /// By the stage's place; [`WORK`] for what is no stage.
    current: Mutex<BTreeMap<usize, (ProgressBar, String)>>,
}

const WORK: usize = usize::MAX;

impl Progress {
    /// With `show` false nothing is shown.
    pub(crate) fn new(show: bool) -> Self {
        let is_terminal = show && std::io::stderr().is_terminal();
        let bars = MultiProgress::new();
        if !is_terminal {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self {
            bars,
            is_terminal,
            show,
            current: Mutex::default(),
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, (ProgressBar, String)>> {
        self.current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            let _ = self.bars.println(text);
        } else if self.show {
            super::note(text);
        }
    }

    /// Begins a piece of work whose length is not known.
    pub(crate) fn begin(&self, title: &str) {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {prefix:<38} {msg}"));
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.current().insert(WORK, (bar, title.to_owned()));
    }

    /// Ends it, with what came of it.
    pub(crate) fn end(&self, outcome: &str) {
        if let Some((bar, title)) = self.current().remove(&WORK) {
            bar.finish_and_clear();
            self.line(&format!("{} {title:<38} {outcome}", super::text::tick()));
        }
    }

    /// Says something in between.
    pub(crate) fn note(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// Takes an event of the engine.
    pub(crate) fn event(&self, event: Event) {
        match event {
            Event::StageStarted {
                index, title, steps, ..
            } => {
                let bar = self.bars.add(ProgressBar::new(steps as u64));
                bar.set_style(
                    style("  {prefix:<38} [{bar:30}] {pos}/{len} {wide_msg}").progress_chars("=> "),
                );
                bar.set_prefix(title.clone());
                self.current().insert(index, (bar, title));
            }
            Event::StepDone {
                index,
                object,
                action,
                outcome,
            } => {
                if let Some((bar, _)) = self.current().get(&index) {
                    bar.inc(1);
                    bar.set_message(format!("{action} {object}"));
                }
                if outcome == Outcome::Superseded {
                    self.line(&format!(
                        "  {object} was changed by somebody else; it is planned again"
                    ));
                }
                tracing::debug!(%object, action, ?outcome, "step done");
            }
            Event::Waiting {
                index,
                object,
                progress,
            } => {
                if let Some((bar, _)) = self.current().get(&index) {
                    bar.set_message(format!("waiting for {object}: {progress}"));
                }
                tracing::info!(%object, progress, "waiting");
            }
            Event::Retrying {
                object,
                message,
                after,
            } => {
                self.line(&format!(
                    "  {object}: {message}; trying again in {:.1} s",
                    after.as_secs_f64()
                ));
            }
            Event::StageDone { index, took } => {
                let stage = self.current().remove(&index);
                if let Some((bar, title)) = stage {
                    let steps = bar.length().unwrap_or_default();
                    bar.finish_and_clear();
                    let unit = if steps == 1 { "step" } else { "steps" };
                    self.line(&format!(
                        "{} {title:<38} {steps:>4} {unit:<5} {:>7}",
                        super::text::tick(),
                        super::text::duration(took)
                    ));
                }
            }
            Event::Replanning { objects } => {
                let changed = super::text::count(objects.len(), "object");
                self.line(&format!(
                    "  {changed} changed meanwhile; planning again from what is there"
                ));
            }
            Event::AwaitingControllers { message } => {
                self.line(&format!(
                    "  all is written; waiting for KubeSphere's controllers: {message}"
                ));
            }
            Event::RunStarted { .. } | Event::RunDone { .. } => {}
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
