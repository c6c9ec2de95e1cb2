//! What Prometheus is told, in the names and units of its conventions (https://prometheus.io/docs/practices/naming/).

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

use engine::{Event, Outcome};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use upgrade::{Finding, Severity};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabel {
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FindingLabels {
    severity: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ComponentLabel {
    component: String,
}

/// All metrics of the operator.
pub(super) struct Metrics {
    registry: Registry,
    leader: Gauge,
    reconciliations: Family<ResultLabel, Counter>,
    reconcile_seconds: Histogram,
    stage_seconds: Family<StageLabel, Gauge<f64, AtomicU64>>,
    writes: Counter,
    retries: Counter,
    findings: Family<FindingLabels, Gauge>,
    healthy: Family<ComponentLabel, Gauge>,
    drifted: Gauge<i64, AtomicI64>,
    /// The stage under way.
    stage: Mutex<String>,
}

impl Metrics {
    pub(super) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("ks_installer");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the installer", build);
        let leader = Gauge::default();
        registry.register(
            "leader",
            "Whether this replica is the one that acts",
            leader.clone(),
        );
        let reconciliations = Family::default();
        registry.register(
            "reconciliations",
            "Reconciliations by result",
            reconciliations.clone(),
        );
        let reconcile_seconds = Histogram::new([0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]);
        registry.register_with_unit(
            "reconcile",
            "Time of a reconciliation, waits for rollouts included",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let stage_seconds = Family::default();
        registry.register_with_unit(
            "stage",
            "Time that a stage took when it was last carried out",
            Unit::Seconds,
            stage_seconds.clone(),
        );
        let writes = Counter::default();
        registry.register("writes", "Objects written", writes.clone());
        let retries = Counter::default();
        registry.register("write_retries", "Writes that were tried again", retries.clone());
        let findings = Family::default();
        registry.register(
            "findings",
            "Findings of the last reconciliation",
            findings.clone(),
        );
        let healthy = Family::default();
        registry.register(
            "component_healthy",
            "Whether all workloads of a component run",
            healthy.clone(),
        );
        let drifted = Gauge::default();
        registry.register(
            "drifted_objects",
            "Objects of the release that somebody changed since it was installed",
            drifted.clone(),
        );
        Arc::new(Self {
            registry,
            leader,
            reconciliations,
            reconcile_seconds,
            stage_seconds,
            writes,
            retries,
            findings,
            healthy,
            drifted,
            stage: Mutex::default(),
        })
    }

    /// In the OpenMetrics text format.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    pub(super) fn reconciled(&self, result: &str, seconds: f64) {
        let label = ResultLabel {
            result: result.to_owned(),
        };
        self.reconciliations.get_or_create(&label).inc();
        self.reconcile_seconds.observe(seconds);
    }

    pub(super) fn found(&self, findings: &[Finding]) {
        self.findings.clear();
        for finding in findings {
            let labels = FindingLabels {
                severity: match finding.severity {
                    Severity::Blocker => "blocker",
                    Severity::Warning => "warning",
                    Severity::Info => "info",
                }
                .to_owned(),
                reason: finding.reason.clone(),
            };
            self.findings.get_or_create(&labels).inc();
        }
    }

    pub(super) fn component(&self, name: &str, healthy: bool) {
        let label = ComponentLabel {
            component: name.to_owned(),
        };
        self.healthy.get_or_create(&label).set(healthy.into());
    }

    pub(super) fn drifted(&self, objects: usize) {
        self.drifted.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    pub(super) fn event(&self, event: &Event) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::StageStarted { name, .. } => stage.clone_from(name),
            Event::StageDone { took, .. } => {
                let label = StageLabel { stage: stage.clone() };
                self.stage_seconds.get_or_create(&label).set(took.as_secs_f64());
            }
            Event::StepDone {
                outcome: Outcome::Changed,
                ..
            } => {
                self.writes.inc();
            }
            Event::Retrying { .. } => {
                self.retries.inc();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_are_those_of_the_conventions() {
        let metrics = Metrics::new();
        metrics.leads(true);
        metrics.component("ks-core", true);
        metrics.reconciled("settled", 0.2);
        metrics.found(&[
            Finding::warning("SomeReason", "words"),
            Finding::warning("SomeReason", "words"),
        ]);
        metrics.event(&Event::StageStarted {
            index: 0,
            name: "workloads".into(),
            title: "Core workloads".into(),
            steps: 1,
        });
        metrics.event(&Event::StageDone {
            index: 0,
            took: std::time::Duration::from_millis(1500),
        });
        let text = metrics.text();
        for line in [
            "ks_installer_leader 1",
            "ks_installer_component_healthy{component=\"ks-core\"} 1",
            "ks_installer_reconciliations_total{result=\"settled\"} 1",
            "ks_installer_reconcile_seconds_count 1",
            "ks_installer_findings{severity=\"warning\",reason=\"SomeReason\"} 2",
            "ks_installer_stage_seconds{stage=\"workloads\"} 1.5",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        assert!(text.contains("ks_installer_build_info{version="), "{text}");
    }
}
