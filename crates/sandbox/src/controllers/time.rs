//! What happens because time passes: pods have started, schedules are due.

use std::sync::Arc;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde_json::{Value, json};

use crate::controllers::sets::job_outcome;
use crate::controllers::workloads::{children, delete, owner_reference};
use crate::controllers::{create, pods, write_status};
use crate::json::{child, is_deleting, name, namespace, number_at, text_at, uid};
use crate::status::Result;
use crate::store::{Collection, Key, State};
use crate::transaction::Transaction;
use crate::write::Writer;

/// Whether anything is due.
pub(crate) fn is_due(state: &State, starts: SignedDuration, now: Timestamp) -> bool {
    started(state, starts, now).next().is_some()
        || state
            .collection("cronjobs.batch")
            .into_iter()
            .flat_map(Collection::iter)
            .any(|(_, job)| due(job, now).is_some())
}

/// Lets everything happen that is due.
pub(crate) fn pass(transaction: &mut Transaction, now: Timestamp) -> Result<()> {
    let starts = transaction.config.pod_start();
    let keys: Vec<_> = started(&transaction.state, starts, now).collect();
    for key in keys {
        pods::run(transaction, &key)?;
    }
    let kind = transaction.builtin("batch", "cronjobs")?;
    let schedules: Vec<_> = transaction
        .state
        .objects_of(&kind)
        .iter()
        .filter_map(|(_, schedule)| Some((Arc::clone(schedule), due(schedule, now)?)))
        .collect();
    for (schedule, time) in schedules {
        run(transaction, &schedule, time)?;
    }
    Ok(())
}

/// Pods whose containers were being made, and are.
fn started(state: &State, starts: SignedDuration, now: Timestamp) -> impl Iterator<Item = Key> {
    let pods = (!starts.is_zero()).then(|| state.collection("pods")).flatten();
    pods.into_iter()
        .flat_map(Collection::iter)
        .filter(move |(_, pod)| pods::is_starting(pod) && pods::has_started(pod, starts, now))
        .map(|(path, _)| Key {
            store: "pods".into(),
            path: Arc::clone(path),
        })
}

/// The latest time at which a schedule was to run and has not, if there is one.
fn due(schedule: &Value, now: Timestamp) -> Option<Timestamp> {
    if is_deleting(schedule) || schedule.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        return None;
    }
    let last = ["/status/lastScheduleTime", "/metadata/creationTimestamp"]
        .iter()
        .find_map(|place| text_at(schedule, place).parse::<Timestamp>().ok())?;
    let zone = match text_at(schedule, "/spec/timeZone") {
        "" => TimeZone::UTC,
        zone => TimeZone::get(zone).ok()?,
    };
    let times = Times::parse(text_at(schedule, "/spec/schedule"))?;
    let latest = times.latest(last, now, &zone).filter(|latest| *latest > last)?;
    match number_at(schedule, "/spec/startingDeadlineSeconds") {
        // What is later than that is not made up for.
        Some(seconds) if latest.checked_add(SignedDuration::from_secs(seconds)).ok()? < now => None,
        _ => Some(latest),
    }
}

/// The times of a schedule.
enum Times {
    Cron(Box<Cron>),
    /// `@every 1h30m`, counted from the last one.
    Every(SignedDuration),
}

impl Times {
    fn parse(schedule: &str) -> Option<Times> {
        match schedule.strip_prefix("@every ") {
            Some(every) => {
                let every: SignedDuration = every.trim().parse().ok()?;
                every.is_positive().then_some(Times::Every(every))
            }
            // `?` is another word for `*`.
            None => Some(Times::Cron(Box::new(schedule.replace('?', "*").parse().ok()?))),
        }
    }

    /// The latest time up to now; the last one is what others are counted from.
    fn latest(&self, last: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Times::Every(every) => {
                let times = now.duration_since(last).as_secs() / every.as_secs().max(1);
                let passed = SignedDuration::from_secs(every.as_secs().checked_mul(times)?);
                last.checked_add(passed).ok()
            }
            Times::Cron(cron) => {
                let now = Zoned::new(now, zone.clone());
                let latest = cron.find_previous_occurrence(&now, true).ok()?;
                Some(latest.timestamp())
            }
        }
    }
}

/// Makes the Job of a time, unless one that runs forbids it.
fn run(transaction: &mut Transaction, schedule: &Arc<Value>, time: Timestamp) -> Result<()> {
    let kind = transaction.builtin("batch", "cronjobs")?;
    let jobs = transaction.builtin("batch", "jobs")?;
    let active: Vec<_> = children(transaction, schedule, &jobs)
        .into_iter()
        .filter(|job| job_outcome(job).is_none())
        .collect();
    let policy = text_at(schedule, "/spec/concurrencyPolicy");
    if policy == "Forbid" && !active.is_empty() {
        return Ok(());
    }
    if policy == "Replace" {
        for job in &active {
            delete(transaction, &jobs, job)?;
        }
    }
    // Jobs are named by their time: in seconds up to 1.20, in minutes since then.
    let seconds = time.as_second();
    let number = if transaction.builtins.minor < 21 {
        seconds
    } else {
        seconds / 60
    };
    let template = schedule.pointer("/spec/jobTemplate").cloned().unwrap_or_default();
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": format!("{}-{number}", name(schedule)),
            "namespace": namespace(schedule),
            "ownerReferences": [owner_reference(schedule)],
        },
        "spec": template.get("spec"),
    });
    for key in ["labels", "annotations"] {
        if let Some(value) = template.pointer(&format!("/metadata/{key}")) {
            job["metadata"][key] = value.clone();
        }
    }
    create(transaction, &jobs, job, Writer::CONTROLLER)?;
    let key = Key::of(&kind, schedule);
    let Some(live) = transaction.state.get(&key).cloned() else {
        return Ok(());
    };
    let mut next = Value::clone(&live);
    child(&mut next, "status").insert("lastScheduleTime".into(), crate::format_time(time).into());
    write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
    tidy(transaction, &key)
}

/// Lists the Jobs that run, and lets those go that are more than the history is to have.
pub(crate) fn tidy(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(schedule) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&schedule) {
        return Ok(());
    }
    let kind = transaction.builtin("batch", "cronjobs")?;
    let jobs = transaction.builtin("batch", "jobs")?;
    let mut all = children(transaction, &schedule, &jobs);
    all.retain(|job| !is_deleting(job));
    all.sort_by_key(|job| text_at(job, "/status/startTime").to_owned());
    for (wanted, limit, otherwise) in [
        ("Complete", "successfulJobsHistoryLimit", 3),
        ("Failed", "failedJobsHistoryLimit", 1),
    ] {
        let ended: Vec<_> = all
            .iter()
            .filter(|job| job_outcome(job) == Some(wanted))
            .collect();
        let limit = number_at(&schedule, &format!("/spec/{limit}")).unwrap_or(otherwise);
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(surplus) {
            delete(transaction, &jobs, job)?;
        }
    }
    let active: Vec<_> = all
        .iter()
        .filter(|job| job_outcome(job).is_none())
        .map(|job| {
            json!({
                "apiVersion": "batch/v1", "kind": "Job", "name": name(job), "namespace": namespace(job),
                "resourceVersion": text_at(job, "/metadata/resourceVersion"), "uid": uid(job),
            })
        })
        .collect();
    let mut next = Value::clone(&schedule);
    let status = child(&mut next, "status");
    if active.is_empty() {
        status.shift_remove("active");
    } else {
        status.insert("active".into(), active.into());
    }
    write_status(transaction, &kind, &schedule, next, Writer::CONTROLLER);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: &str, now: &str, expect: Option<&str>) {
        let mut object = json!({
            "metadata": { "creationTimestamp": "2024-01-01T00:00:30Z" },
            "spec": { "schedule": schedule },
        });
        if !zone.is_empty() {
            object["spec"]["timeZone"] = zone.into();
        }
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(due(&object, time(now)), expect.map(time), "{schedule} at {now}");
    }

    #[test]
    fn schedules_are_due_at_their_latest_time() {
        check("*/5 * * * *", "", "2024-01-01T00:04:59Z", None);
        check(
            "*/5 * * * *",
            "",
            "2024-01-01T00:12:00Z",
            Some("2024-01-01T00:10:00Z"),
        );
        check(
            "@hourly",
            "",
            "2024-01-01T01:00:00Z",
            Some("2024-01-01T01:00:00Z"),
        );
        check(
            "@every 90s",
            "",
            "2024-01-01T00:02:10Z",
            Some("2024-01-01T00:02:00Z"),
        );
        check(
            "0 6 ? * MON",
            "Asia/Shanghai",
            "2024-01-09T00:00:00Z",
            Some("2024-01-07T22:00:00Z"),
        );
        check("no schedule", "", "2024-02-01T00:00:00Z", None);
    }
}
