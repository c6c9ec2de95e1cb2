//! What happens during a run.

use std::time::Duration;

use object::ObjectKey;

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Changed,
    /// The cluster already was as the step wants it.
    AlreadyDone,
    /// The object changed since the plan was made; the step was not carried out and is planned anew.
    Superseded,
    /// The condition holds.
    Held,
}

/// What happens during a run, in order. Holds no secrets.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    RunStarted {
        stages: usize,
        steps: usize,
    },
    /// The stage's position, from 0, among the run's stages.
    StageStarted {
        index: usize,
        name: String,
        title: String,
        steps: usize,
    },
    StepDone {
        index: usize,
        object: ObjectKey,
        action: &'static str,
        outcome: Outcome,
    },
    /// A wait is not over yet; `progress` says how far it is ("1 of 3 replicas updated").
    Waiting {
        index: usize,
        object: ObjectKey,
        progress: String,
    },
    /// A write failed in a way that is worth trying again.
    Retrying {
        object: ObjectKey,
        message: String,
        after: Duration,
    },
    StageDone {
        index: usize,
        took: Duration,
    },
    /// Objects changed under the run; the plan is made again from what is there now.
    Replanning {
        objects: Vec<ObjectKey>,
    },
    RunDone {
        took: Duration,
    },
    /// All is written; verification waits for what KubeSphere's own controllers do.
    AwaitingControllers {
        message: String,
    },
}
