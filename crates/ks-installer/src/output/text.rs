//! What people read. Colour only repeats what the words and signs say already.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    time::Duration,
};

use access::{Changes, visible};
use object::{diff::Change, drift::Drift};
use serde_json::Value;
use upgrade::{Action, Finding, Plan, Severity, Step};

pub(crate) const BOLD: &str = "\x1b[1m";
pub(crate) const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
pub(crate) const YELLOW: &str = "\x1b[33m";
pub(crate) const RESET: &str = "\x1b[0m";

pub(crate) fn bold(text: &str) -> String {
    format!("{BOLD}{text}{RESET}")
}

pub(crate) fn tick() -> String {
    format!("{GREEN}✓{RESET}")
}

/// `120 ms`, `3.4 s`, `2 min 5 s`
pub(crate) fn duration(time: Duration) -> String {
    match time.as_millis() {
        millis @ ..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// `1 object`, `3 objects`
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Findings by severity, each with its object, reason and hint.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let mut out = String::new();
    for (severity, title, colour) in [
        (
            Severity::Blocker,
            "Blockers: nothing is written until these are resolved",
            RED,
        ),
        (Severity::Warning, "Warnings", YELLOW),
        (Severity::Info, "Good to know", DIM),
    ] {
        let of_severity: Vec<_> = findings.iter().filter(|f| f.severity == severity).collect();
        if of_severity.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{colour}{title} ({}){RESET}", of_severity.len());
        for finding in of_severity {
            let object = finding
                .object
                .as_ref()
                .map(|o| format!("{o}: "))
                .unwrap_or_default();
            let _ = writeln!(
                out,
                "  - {object}{} {DIM}[{}]{RESET}",
                finding.message, finding.reason
            );
            if let Some(hint) = &finding.hint {
                let _ = writeln!(out, "    hint: {hint}");
            }
        }
    }
    out
}

/// `2 blockers, 1 warning`
pub(crate) fn tally(findings: &[Finding]) -> String {
    let of = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let mut parts = Vec::new();
    for (severity, noun) in [(Severity::Blocker, "blocker"), (Severity::Warning, "warning")] {
        if of(severity) > 0 {
            parts.push(count(of(severity), noun));
        }
    }
    if parts.is_empty() {
        "nothing in the way".to_owned()
    } else {
        parts.join(", ")
    }
}

/// What the plan does, stage by stage. With `details` every field that changes is shown.
pub(crate) fn plan(plan: &Plan, details: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{BOLD}KubeSphere {} → {}{RESET} on Kubernetes {}: {} to write, {} already as they should be",
        plan.from,
        plan.to,
        plan.kubernetes,
        count(plan.writes(), "object"),
        plan.unchanged
    );
    for stage in &plan.stages {
        let writes: Vec<_> = stage.steps.iter().filter(|s| !is_wait(s)).collect();
        let waits = stage.steps.len() - writes.len();
        let waits = if waits == 0 {
            String::new()
        } else {
            format!(", then wait for {}", count(waits, "object"))
        };
        let _ = writeln!(
            out,
            "\n{BOLD}{}{RESET} ({}{waits})",
            stage.title,
            count(writes.len(), "write")
        );
        if details || writes.len() <= 12 {
            for step in writes {
                self::step(&mut out, step, details);
            }
        } else {
            for (what, names) in summarise(&writes) {
                let _ = writeln!(out, "  {what}: {}", shorten(&names));
            }
        }
    }
    out
}

fn is_wait(step: &Step) -> bool {
    matches!(step.action, Action::Wait { .. })
}

fn verb(step: &Step) -> &'static str {
    match (&step.action, &step.before) {
        (Action::Apply { .. } | Action::Generate { .. }, None) => "create",
        (Action::Record { .. }, None) => "record",
        (
            Action::Apply { .. } | Action::Patch { .. } | Action::Generate { .. } | Action::Record { .. },
            _,
        ) => "change",
        (Action::Delete { .. }, _) => "delete",
        (Action::Scale { .. }, _) => "scale",
        (Action::Wait { .. }, _) => "wait for",
    }
}

fn step(out: &mut String, step: &Step, details: bool) {
    let sign = match verb(step) {
        "create" | "record" => format!("{GREEN}+{RESET}"),
        "delete" => format!("{RED}-{RESET}"),
        _ => format!("{YELLOW}~{RESET}"),
    };
    let extra = match &step.action {
        Action::Scale { replicas } => format!(" to {replicas} replicas"),
        _ => String::new(),
    };
    let note = step
        .note
        .as_ref()
        .map(|n| format!(" {DIM}({n}){RESET}"))
        .unwrap_or_default();
    let _ = writeln!(out, "  {sign} {} {}{extra}{note}", verb(step), step.object);
    if details {
        for change in &step.changes {
            let _ = writeln!(out, "      {}", self::change(change));
        }
    }
    // What people did is never only counted.
    for drift in &step.drift {
        let _ = writeln!(out, "      {}", self::drift(drift));
    }
}

fn change(change: &Change) -> String {
    format!(
        "{}: {} → {}",
        change.path,
        side(change.from.as_ref()),
        side(change.to.as_ref())
    )
}

/// `changed by hand: spec.replicas: released 1, now 5, the new release 1: stays`
fn drift(drift: &Drift) -> String {
    let outcome = match (drift.kept, drift.open) {
        (true, _) => "stays",
        (false, true) => "is put back",
        (false, false) => "gets what the release sets",
    };
    format!(
        "changed by hand: {}: {}: {outcome}",
        drift.path,
        drift_sides(drift)
    )
}

/// `released 1, now 5, the new release 1`
pub(crate) fn drift_sides(drift: &Drift) -> String {
    format!(
        "released {}, now {}, the new release {}",
        side(drift.released.as_ref()),
        side(drift.live.as_ref()),
        side(drift.new.as_ref())
    )
}

fn side(value: Option<&Value>) -> String {
    match value {
        None => "(none)".to_owned(),
        Some(value) => clip(&value.to_string(), 100),
    }
}

fn clip(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let head: String = text.chars().take(length).collect();
    format!("{head}…")
}

/// Names by what is done to which kind, for stages too long to list.
fn summarise(steps: &[&Step]) -> BTreeMap<String, Vec<String>> {
    let mut groups = BTreeMap::<String, Vec<String>>::new();
    for step in steps {
        let name = match &step.object.namespace {
            Some(namespace) => format!("{namespace}/{}", step.object.name),
            None => step.object.name.clone(),
        };
        groups
            .entry(format!("{} {}", verb(step), step.object.kind))
            .or_default()
            .push(name);
    }
    groups
}

pub(crate) fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// How many are affected, and why.
pub(crate) fn summary(summary: &access::Summary) -> String {
    let mut out = format!(
        "{} affected, {} of them lose something; {}, {}\n",
        count(summary.users_affected, "user"),
        summary.users_losing,
        count(summary.groups_affected, "group"),
        count(summary.service_accounts_affected, "service account"),
    );
    for (reason, users) in &summary.users_by_reason {
        let why = match reason.as_str() {
            "RemovedRole" => "their role is removed",
            "RevokedTemplates" => "permissions are revoked from a role of theirs",
            "RenamedTemplates" => "permissions of a role of theirs go by another name",
            "ExtendedTemplates" => "the release extends permissions of a role of theirs",
            "BroughtRole" => "the release brings a role that a binding of theirs already names",
            _ => "the release changes a built-in role",
        };
        let _ = writeln!(out, "  {}: {why}", count(*users, "user"));
    }
    out
}

/// Who loses and gains which permission.
pub(crate) fn impact(impact: &access::Impact) -> String {
    let mut out = String::new();
    let losing = impact
        .subjects
        .iter()
        .filter(|s| s.loses())
        .map(|s| (&s.kind, &s.name));
    let losing: std::collections::BTreeSet<_> = losing.collect();
    if losing.is_empty() && impact.everyone.iter().any(|e| !e.lost.is_empty()) {
        let _ = writeln!(out, "\n{BOLD}Access{RESET}: everyone loses permissions");
    } else if losing.is_empty() {
        let _ = writeln!(out, "\n{BOLD}Access{RESET}: nobody loses a permission");
    } else {
        let names: Vec<_> = losing.iter().take(NAMED).map(|(_, name)| visible(name)).collect();
        let more = match losing.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let _ = writeln!(
            out,
            "\n{BOLD}Access{RESET}: {} {} permissions: {}{more}",
            losing.len(),
            if losing.len() == 1 { "loses" } else { "lose" },
            names.join(", ")
        );
    }
    // Many people lose alike: it is put into words once.
    let mut known = HashMap::new();
    for subject in &impact.subjects {
        let members = match subject.members.len() {
            0 => String::new(),
            _ => format!(" ({})", shorten(&subject.members)),
        };
        let through = match subject.through.len() {
            0 => String::new(),
            _ => format!(", through {}", shorten(&subject.through)),
        };
        let _ = writeln!(
            out,
            "  {} {}{}, {}{}:",
            subject.kind,
            visible(&subject.name),
            visible(&members),
            visible(&subject.scope.to_string()),
            visible(&through)
        );
        let mut list = |changes: &Changes, sign: &'static str| {
            let words = known.entry((changes.address(), sign)).or_insert_with(|| {
                let mut words = String::new();
                for change in changes {
                    let _ = writeln!(words, "    {sign}  {}", permission(change));
                }
                words
            });
            out.push_str(words);
        };
        list(&subject.lost, LOSES);
        list(&subject.gained, GAINS);
        // Where kubectl says the same, once is enough.
        let kubectl = &subject.kubectl;
        if kubectl.lost != subject.lost {
            list(&kubectl.lost, LOSES_DIRECTLY);
        }
        if kubectl.gained != subject.gained {
            list(&kubectl.gained, GAINS_DIRECTLY);
        }
        if subject.loses() && !subject.kept.is_empty() {
            let _ = writeln!(
                out,
                "      {DIM}keeps {}{RESET}",
                visible(&clip(&shorten(&subject.kept), 160))
            );
        }
        for reason in &subject.reasons {
            let _ = writeln!(out, "      {DIM}because {}{RESET}", visible(&reason.to_string()));
        }
    }
    for everyone in &impact.everyone {
        for (verb, changes) in [("loses", &everyone.lost), ("gains", &everyone.gained)] {
            let words: Vec<_> = changes.iter().map(permission).collect();
            if !words.is_empty() {
                let _ = writeln!(out, "  Everyone in {} {verb} {}", everyone.name, words.join("; "));
            }
        }
    }
    out
}

/// How many names a headline holds.
const NAMED: usize = 50;
const LOSES: &str = "\x1b[31m- loses\x1b[0m";
const GAINS: &str = "\x1b[32m+ gains\x1b[0m";
const LOSES_DIRECTLY: &str = "\x1b[31m- loses\x1b[0m with kubectl";
const GAINS_DIRECTLY: &str = "\x1b[32m+ gains\x1b[0m with kubectl";

fn permission(change: &access::PermissionChange) -> String {
    if let Some(words) = &change.permission {
        return visible(words).into_owned();
    }
    let grants: Vec<_> = change.grants.iter().map(ToString::to_string).collect();
    clip(&visible(&grants.join("; ")), 160)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let check = |millis: u64, expect: &str| assert_eq!(duration(Duration::from_millis(millis)), expect);
        check(12, "12 ms");
        check(3400, "3.4 s");
        check(125_000, "2 min 5 s");
    }

    fn mk_impact(subject: Value) -> access::Impact {
        serde_json::from_value(serde_json::json!({"subjects": [subject]})).expect("an impact")
    }

    #[test]
    fn who_loses_with_kubectl_alone_is_counted() {
        let change = serde_json::json!([{"permission": "Members Management", "grants": []}]);
        let impact = mk_impact(serde_json::json!({
            "kind": "User", "name": "u", "scope": {"kind": "project", "name": "p"},
            "lost": [], "gained": [], "kubectl": {"lost": change, "gained": []}, "reasons": [],
        }));
        let text = super::impact(&impact);
        assert!(text.contains("1 loses permissions: u"), "{text}");
        assert!(text.contains("with kubectl  Members Management"), "{text}");
    }

    #[test]
    fn nobody_writes_on_the_operators_screen() {
        let change = serde_json::json!([{"permission": "get\u{1b}[2J\nAccess: nobody loses a permission", "grants": []}]);
        let impact = mk_impact(serde_json::json!({
            "kind": "User", "name": "u\u{1b}[8m", "scope": {"kind": "project", "name": "p"},
            "lost": change, "gained": [], "reasons": [],
        }));
        let text = super::impact(&impact);
        assert!(
            !text.contains("\u{1b}[2J") && !text.contains("\u{1b}[8m"),
            "{text:?}"
        );
        assert!(!text.contains("\nAccess: nobody"), "{text:?}");
    }
}
