//! Components side by side: each carries its stages out one after another, once those that it needs are done. None stops
//! another, but for those that need it.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::watch;
use upgrade::Stage;

use crate::{
    RunError,
    run::{Run, RunSummary},
};

/// What became of a component that was not done.
#[derive(Debug)]
pub struct Failure {
    pub component: String,
    pub why: Box<RunError>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Pending,
    Done,
    /// Not done, and so are not those that need it.
    Stopped,
}

struct Lane<'a> {
    component: &'a str,
    /// With their places in the plan.
    stages: Vec<(usize, &'a Stage)>,
}

/// Carries out the stages of components, `first` being the place of the first one in the plan. What was done until a component
/// failed is in `summary` all the same.
///
/// # Errors
/// After all others are done: the components that failed and those that were left out for it. Where something else comes after
/// them (`is_last` is false), the first failure, as that of any stage.
pub(crate) async fn run(
    run: &Run<'_>,
    first: usize,
    stages: &[Stage],
    is_last: bool,
    summary: &mut RunSummary,
) -> Result<(), RunError> {
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for (offset, stage) in stages.iter().enumerate() {
        let component = stage.component.as_deref().unwrap_or_default();
        let stage = (first + offset, stage);
        match lanes.iter_mut().find(|lane| lane.component == component) {
            Some(lane) => lane.stages.push(stage),
            None => lanes.push(Lane {
                component,
                stages: vec![stage],
            }),
        }
    }
    let states: Vec<_> = lanes.iter().map(|_| watch::channel(State::Pending).0).collect();
    let running: FuturesUnordered<_> = lanes
        .iter()
        .zip(&states)
        .map(|(lane, state)| {
            let needed = lane.stages[0].1.after.iter().filter_map(|need| {
                let place = lanes.iter().position(|other| other.component == need)?;
                Some((need.as_str(), states[place].subscribe()))
            });
            let needed: Vec<_> = needed.collect();
            async move {
                let (done, result) = carry_out(run, lane, needed).await;
                let is_done = result.is_ok() && done.superseded.is_empty();
                let _ = state.send(if is_done { State::Done } else { State::Stopped });
                (lane.component, done, result)
            }
        })
        .collect();
    let finished: Vec<_> = running.collect().await;
    let (mut failed, mut left_out) = (Vec::new(), Vec::new());
    // They write at the same time: the longest tells how long it took.
    let writing = finished.iter().map(|(_, done, _)| done.writing).max();
    summary.writing += writing.unwrap_or_default();
    for (component, done, result) in finished {
        summary.add(RunSummary {
            writing: Duration::ZERO,
            ..done
        });
        match result {
            Ok(None) => {}
            Ok(Some(need)) => left_out.push((component.to_owned(), need)),
            Err(RunError::Interrupted) => return Err(RunError::Interrupted),
            Err(why) if !is_last => return Err(why),
            Err(why) => failed.push(Failure {
                component: component.to_owned(),
                why: Box::new(why),
            }),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    failed.sort_by(|a, b| a.component.cmp(&b.component));
    left_out.sort();
    Err(RunError::Components { failed, left_out })
}

/// Carries a lane out; tells what of it that it needs was not done, where it was not begun.
async fn carry_out(
    run: &Run<'_>,
    lane: &Lane<'_>,
    needed: Vec<(&str, watch::Receiver<State>)>,
) -> (RunSummary, Result<Option<String>, RunError>) {
    let mut summary = RunSummary::default();
    for (need, mut state) in needed {
        let state = state.wait_for(|state| *state != State::Pending).await;
        if state.is_ok_and(|state| *state == State::Stopped) {
            return (summary, Ok(Some(need.to_owned())));
        }
    }
    for (index, stage) in &lane.stages {
        if run.is_stopped() {
            return (summary, Err(RunError::Interrupted));
        }
        match run.stage(*index, stage).await {
            Ok(done) => summary.add(done),
            Err(error) => return (summary, Err(error)),
        }
        if !summary.superseded.is_empty() {
            break;
        }
    }
    (summary, Ok(None))
}
