//! The checks of a component: what keeps it out, and what is worth knowing of what is there in its place.

use release::{Check, Component, Inputs, RenderError};

use super::Decider;
use crate::{Finding, settings};

impl Decider<'_> {
    /// Whether a check keeps a component out that the settings ask for. What fails is told.
    ///
    /// # Errors
    /// A check's expression does not hold.
    pub(super) fn is_kept_out(
        &self,
        component: &Component,
        inputs: &Inputs,
        findings: &mut Vec<Finding>,
    ) -> Result<bool, RenderError> {
        let name = &component.name;
        let is_there = self.is_there(component) || self.was_installed(component);
        let mut kept_out = false;
        for check in component.failed_checks(self.release, inputs)? {
            if check.first && is_there {
                continue;
            }
            kept_out |= !check.warning;
            let said = if check.warning { "" } else { " is left out" };
            let message = format!("component {name}{said}: {}", check.message);
            findings.push(told(Finding::warning(&check.reason, message), check));
        }
        Ok(kept_out)
    }

    /// Tells what is there in place of a component that is off.
    ///
    /// # Errors
    /// A check's expression does not hold.
    pub(super) fn tell_whose_place_it_is(
        &self,
        component: &Component,
        inputs: &Inputs,
        findings: &mut Vec<Finding>,
    ) -> Result<(), RenderError> {
        if !component.checks.iter().any(|check| check.always) {
            return Ok(());
        }
        for check in component.failed_checks(self.release, inputs)? {
            if check.always {
                let message = format!("component {} is not installed: {}", component.name, check.message);
                findings.push(told(Finding::info(&check.reason, message), check));
            }
        }
        Ok(())
    }
}

fn told(finding: Finding, check: &Check) -> Finding {
    finding
        .on(settings::cluster_configuration())
        .hint(check.hint.clone())
}
