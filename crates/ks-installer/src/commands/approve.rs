//! What comes between a decision and the first write, in every command that writes: it is shown, it is refused or may be, and
//! somebody says yes.

use engine::{LeaseError, Prepared};
use serde_json::{Value, json};
use upgrade::{Finding, Plan};

use super::{Verdict, confirm, plan};
use crate::output::{self, text};

/// What is to be approved, and in which words.
pub(super) struct Asked<'a> {
    /// The field of the outcome that says whether it was done: `upgraded`.
    pub done: &'static str,
    pub json: bool,
    /// Nobody is asked.
    pub yes: bool,
    /// Every field that changes is shown.
    pub details: bool,
    /// What is said where blockers stand in the way.
    pub blocked: &'a str,
    /// What stands before `Write 3 objects to the cluster?`
    pub question: &'a str,
    /// Writes that are not in the plan, since they come before it.
    pub edits: usize,
}

/// What came of it.
pub(super) enum Approval<'a> {
    /// The plan may be carried out. One that is empty was not asked about.
    Given(&'a Plan),
    Ended(Verdict),
}

impl Asked<'_> {
    /// Says why nothing was written.
    pub(super) fn refuse(
        &self,
        words: &str,
        why: &str,
        details: Option<Value>,
        findings: &[Finding],
    ) -> anyhow::Result<Verdict> {
        if self.json {
            let mut value = json!({(self.done): false, "why": why, "findings": findings});
            if let Some(details) = details {
                value["details"] = details;
            }
            output::json(&value)?;
        } else {
            output::print(&format!("\n{words}\n"));
        }
        Ok(Verdict::Refused)
    }

    /// Says that another run is under way.
    pub(super) fn held(&self, error: &LeaseError) -> anyhow::Result<Verdict> {
        let hint = error.hint().unwrap_or_default();
        output::note(&format!("Nothing was written: {error}\nhint: {hint}"));
        if self.json {
            output::json(&json!({(self.done): false, "why": error.to_string()}))?;
        }
        Ok(Verdict::Refused)
    }
}

/// Shows what was decided, refuses it where something stands in the way, and asks. `first` looks at a plan without blockers
/// before anybody is asked, and may end it there.
pub(super) fn approve<'a>(
    prepared: &'a Prepared,
    asked: &Asked<'_>,
    first: impl FnOnce(&Plan) -> anyhow::Result<Option<Verdict>>,
) -> anyhow::Result<Approval<'a>> {
    if !asked.json {
        show(prepared, asked.details);
    }
    let blocked = prepared.blockers().next().is_some();
    let Some(plan) = prepared.decision.plan.as_ref().filter(|_| !blocked) else {
        let refused = asked.refuse(asked.blocked, "blockers", None, prepared.findings())?;
        return Ok(Approval::Ended(refused));
    };
    if let Some(verdict) = first(plan)? {
        return Ok(Approval::Ended(verdict));
    }
    if plan.is_empty() && asked.edits == 0 || asked.yes {
        return Ok(Approval::Given(plan));
    }
    let question = format!(
        "\n{} Write {} to the cluster?",
        asked.question,
        text::count(plan.writes() + asked.edits, "object")
    );
    if confirm(&question)? {
        return Ok(Approval::Given(plan));
    }
    output::print("Nothing was written.\n");
    Ok(Approval::Ended(Verdict::Refused))
}

fn show(prepared: &Prepared, details: bool) {
    if let Some(plan) = &prepared.decision.plan {
        output::print(&text::plan(plan, details));
        if !plan.is_installation() {
            output::print(&text::impact(&plan.impact));
        }
    } else {
        output::print(&format!("{}\n", text::bold(&plan::heading(prepared))));
    }
    output::print(&text::findings(prepared.findings()));
}
