//! Follows a run: metrics and log lines at once, the status as soon as it can be written.

use std::sync::{Arc, Mutex, PoisonError};

use engine::Event;
use serde_json::{Value, json};
use tokio::sync::Notify;
use upgrade::Plan;

use super::metrics::Metrics;
use crate::{commands::run::Follow, output::text};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// `7/12 Core workloads`
    pub now: String,
    /// How many stages are done, and whether the next one is under way.
    done: usize,
    runs: bool,
}

pub(super) struct Follower {
    metrics: Arc<Metrics>,
    /// Names of the stages, in order.
    stages: Vec<String>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    progress: Progress,
    told: bool,
    ended: bool,
}

impl Follower {
    pub(super) fn new(metrics: Arc<Metrics>, plan: &Plan) -> Self {
        let progress = Progress {
            now: if plan.is_installation() {
                format!("0/{}", plan.stages.len())
            } else {
                format!("0/{} Backup", plan.stages.len())
            },
            ..Progress::default()
        };
        Self {
            metrics,
            stages: plan.stages.iter().map(|stage| stage.name.clone()).collect(),
            state: Mutex::new(State {
                progress,
                told: true,
                ended: false,
            }),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    pub(super) fn last(&self) -> Progress {
        self.state().progress.clone()
    }

    /// The progress, when there is another one; `None` when the run has ended.
    pub(super) async fn next(&self) -> Option<Progress> {
        loop {
            {
                let mut state = self.state();
                if state.ended {
                    return None;
                }
                if !state.told {
                    state.told = true;
                    return Some(state.progress.clone());
                }
            }
            self.changed.notified().await;
        }
    }

    /// Every stage with its state, as the status has them.
    pub(super) fn stages(&self, progress: &Progress) -> Value {
        let state = |index: usize| match index {
            _ if index < progress.done => "Done",
            _ if index == progress.done && progress.runs => "Running",
            _ => "Pending",
        };
        self.stages
            .iter()
            .enumerate()
            .map(|(index, name)| json!({"name": name, "state": state(index)}))
            .collect()
    }
}

impl Follow for Follower {
    fn begin(&self, title: &str) {
        tracing::info!("{title}");
    }

    fn end(&self, outcome: &str) {
        tracing::info!("{outcome}");
    }

    fn note(&self, text: &str) {
        tracing::info!("{text}");
    }

    fn event(&self, event: Event) {
        self.metrics.event(&event);
        match event {
            Event::StageStarted {
                index, name, title, ..
            } => {
                // A plan that is made again, since objects changed meanwhile, has fewer stages.
                let at = self.stages.iter().position(|stage| *stage == name);
                let done = at.unwrap_or(index);
                let now = format!("{}/{} {title}", done + 1, self.stages.len());
                tracing::info!("{now}");
                let mut state = self.state();
                state.progress = Progress {
                    now,
                    done,
                    runs: true,
                };
                state.told = false;
                drop(state);
                self.changed.notify_one();
            }
            // Said with the next one, or at the end: a write for each is enough.
            Event::StageDone { .. } => {
                let mut state = self.state();
                state.progress.done += 1;
                state.progress.runs = false;
            }
            Event::Waiting { object, progress, .. } => tracing::info!("waiting for {object}: {progress}"),
            Event::Retrying {
                object,
                message,
                after,
            } => tracing::warn!(
                "{object}: {message}; trying again in {:.1} s",
                after.as_secs_f64()
            ),
            Event::Replanning { objects } => tracing::info!(
                "{} changed meanwhile; planning again from what is there",
                text::count(objects.len(), "object")
            ),
            Event::AwaitingControllers { message } => {
                tracing::info!("all is written; waiting for KubeSphere's controllers: {message}");
            }
            _ => {}
        }
    }
}
