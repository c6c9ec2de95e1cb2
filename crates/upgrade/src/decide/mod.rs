//! From what is there to what is to be done.

mod access;
mod checks;
mod components;
mod core;
mod definitions;
mod helm;
mod immutable;
mod judge;
mod removal;
mod rollout;
mod step;

pub use components::MANAGER;
pub use step::merge_patch;
pub(crate) use step::{patch_changes, step};

use std::collections::{BTreeMap, BTreeSet};

use ::access::{Impact, MigrateOptions, TEMPLATE};
use object::{
    Object, ObjectKey,
    drift::{Drift, DriftPolicy, Verdict},
};
use release::{Files, Release, Releases, Version, secret::Reference};
use serde::{Deserialize, Serialize};

use crate::{
    Action, Finding, Plan, Snapshot, Stage, cluster_configuration_key,
    plan::{self, Body, Condition, FORMAT, NOTHING, digest_value},
    preflight, reasons,
    settings::{self, Settings},
    verify,
};

/// What the caller wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The release to upgrade to; the newest one when `None`.
    pub target: Option<String>,
    /// What becomes of fields that were changed by hand.
    pub drift: DriftPolicy,
    /// What was answered about single fields; goes before the policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drift_answers: Vec<DriftAnswer>,
    /// Go on on a Kubernetes version that the release does not support.
    pub allow_unsupported_kubernetes: bool,
    /// Bring the rules of kept templates up to the new release in custom roles.
    pub refresh_templates: bool,
    /// What becomes of a cluster without KubeSphere.
    #[serde(skip_serializing_if = "Install::is_no")]
    pub install: Install,
    /// Remove data with the components that are switched off.
    #[serde(skip_serializing_if = "is_false")]
    pub delete_data: bool,
    /// The time of deciding, in Unix seconds, where that is known: an operation of Helm that began just before is one that
    /// may be under way.
    #[serde(skip)]
    pub now: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            drift: DriftPolicy::default(),
            drift_answers: Vec::new(),
            allow_unsupported_kubernetes: false,
            refresh_templates: true,
            install: Install::No,
            delete_data: false,
            now: None,
        }
    }
}

impl Options {
    /// How custom roles are migrated.
    fn migration(&self) -> MigrateOptions {
        MigrateOptions {
            refresh_templates: self.refresh_templates,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Whether a cluster without KubeSphere gets one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Install {
    /// It stays without: that there is none is a blocker.
    #[default]
    No,
    /// It gets one where there is a ClusterConfiguration. One that is there is upgraded.
    WhereAbsent,
    /// The same, and one of another version that is there is left alone: a blocker.
    Only,
}

impl Install {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_no(&self) -> bool {
        *self == Self::No
    }
}

/// What is to become of one field that was changed by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftAnswer {
    pub object: ObjectKey,
    pub path: String,
    pub verdict: Verdict,
}

/// A field of an object that was changed by hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftOf {
    pub object: ObjectKey,
    pub drift: Drift,
}

/// What was decided. A plan is there whenever one could be made, also beside blockers; with blockers it must not
/// be run.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The version that the cluster is at, where that is known.
    pub from: Option<String>,
    /// The version that the plan leads to.
    pub to: String,
    pub plan: Option<Plan>,
    /// Sorted, most severe first.
    pub findings: Vec<Finding>,
    /// All that was changed by hand, whether or not the object is written; secrets are left out.
    pub drift: Vec<DriftOf>,
    /// What the target release is in this cluster.
    pub outline: Box<Outline>,
    /// What must be seen well afterwards.
    pub(crate) targets: release::Target,
}

/// The label (and its value) of the Deployment in which this installer runs as an operator. One without it is the original
/// installer, which acts on every edit of the ClusterConfiguration and must not run beside this one.
pub const OPERATOR_LABEL: (&str, &str) = ("installer.kubesphere.io/operator", "true");

/// Whether a Deployment is this installer's own.
pub fn is_operator(deployment: &Object) -> bool {
    deployment.label(OPERATOR_LABEL.0) == Some(OPERATOR_LABEL.1)
}

/// The Deployment of the installer in the cluster.
pub fn installer_key() -> ObjectKey {
    ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-installer")
}

/// The release that is asked for.
///
/// # Errors
/// A finding that names the releases there are.
pub fn target<'a>(releases: &'a Releases, options: &Options) -> Result<&'a Release, Box<Finding>> {
    let found = match &options.target {
        None => releases.latest(),
        Some(asked) => asked
            .parse::<Version>()
            .ok()
            .and_then(|version| releases.get(&version)),
    };
    found.ok_or_else(|| {
        let asked = options.target.as_deref().unwrap_or("at all");
        let known: Vec<String> = releases.iter().map(|r| r.version.to_string()).collect();
        Finding::blocker(
            reasons::UNKNOWN_RELEASE,
            format!("this installer knows no release {asked}"),
        )
        .hint(format!("it knows {}", known.join(", ")))
        .into()
    })
}

/// Decides what to do, from what is there alone.
pub fn decide(snapshot: &Snapshot, releases: &Releases, options: &Options) -> Decision {
    decide_upon(snapshot, &[], releases, options)
}

/// The same, upon objects that are in the snapshot and not in the cluster: they are made first.
pub(crate) fn decide_upon(
    snapshot: &Snapshot,
    foundation: &[Object],
    releases: &Releases,
    options: &Options,
) -> Decision {
    let from = preflight::installed(snapshot).version().map(str::to_owned);
    let release = match target(releases, options) {
        Ok(release) => release,
        Err(finding) => {
            let to = options.target.clone().unwrap_or_default();
            return Decision {
                from,
                to,
                plan: None,
                findings: vec![*finding],
                drift: Vec::new(),
                outline: Box::default(),
                targets: release::Target::default(),
            };
        }
    };
    let mut decider = Decider::new(snapshot, release, options);
    decider.foundation = foundation;
    let components = decider.stages_of(from.as_deref());
    let rendered: Vec<&Object> = components.manifests.iter().map(|m| &m.object).collect();
    // One that was begun and not finished is none yet.
    let from = from.filter(|_| !preflight::is_installation(snapshot, options.install, &rendered));
    if from.is_none() {
        decider.check_users_are_left_alone();
    }
    decider.lay_foundation();
    decider.preflight(&components, &rendered);
    let plan = decider.plan(from.as_deref());
    let outline = decider.outline(&components);
    let mut findings = decider.findings;
    preflight::sort(&mut findings);
    Decision {
        from,
        to: release.version.to_string(),
        plan,
        findings,
        drift: decider.drift,
        outline: Box::new(outline),
        targets: components.targets,
    }
}

/// Checks that a cluster is as the target release wants it, and that what the upgrade should leave alone is as it was
/// `before`. A blocker among the findings means that it is not.
pub fn verify_upgrade(
    before: Option<&Snapshot>,
    after: &Snapshot,
    releases: &Releases,
    options: &Options,
) -> Vec<Finding> {
    let release = match target(releases, options) {
        Ok(release) => release,
        Err(finding) => return vec![*finding],
    };
    let mut decider = Decider::new(after, release, options);
    let components = decider.stages_of(None);
    let stages = std::mem::take(&mut decider.stages);
    verify_against(before, after, release, options, &components.targets, &stages)
}

/// The same for a cluster in which nothing was done since it was decided upon.
pub fn verify_in_place(
    snapshot: &Snapshot,
    releases: &Releases,
    options: &Options,
    decision: &Decision,
) -> Vec<Finding> {
    let Some(plan) = &decision.plan else {
        return decision.findings.clone();
    };
    match target(releases, options) {
        Ok(release) => verify_against(None, snapshot, release, options, &decision.targets, &plan.stages),
        Err(finding) => vec![*finding],
    }
}

/// `targets` must be seen well, and `stages` are what would still be done.
fn verify_against(
    before: Option<&Snapshot>,
    after: &Snapshot,
    release: &Release,
    options: &Options,
    targets: &release::Target,
    stages: &[Stage],
) -> Vec<Finding> {
    let mut decider = Decider::new(after, release, options);
    let Some((catalog, policy)) = decider.catalog(&release.version) else {
        return decider.findings;
    };
    let before = before.and_then(|snapshot| {
        let installed = preflight::installed(snapshot).version()?.to_owned();
        Some((snapshot, decider.catalog_before(&installed)?))
    });
    let left: Vec<_> = stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .filter(|step| !matches!(step.action, Action::Wait { .. }))
        .map(|step| step.object.to_string())
        .collect();
    let context = verify::Context {
        target: &release.version,
        workloads: &targets.workloads,
        definitions: &targets.custom_resource_definitions,
        webhook_services: &targets.webhook_services,
        catalog: &catalog,
        policy: &policy,
        migration: options.migration(),
        before: before.as_ref().map(|(snapshot, catalog)| (*snapshot, catalog)),
    };
    let mut findings = verify::verify(after, &context);
    if !left.is_empty() {
        findings.push(
            Finding::warning(
                reasons::NOT_CONVERGED,
                format!("another run would write again: {}", preflight::some_of(&left)),
            )
            .hint(
                "somebody changed it meanwhile, or keeps changing it: look with ks-installer plan --details",
            ),
        );
    }
    preflight::sort(&mut findings);
    findings
}

/// What the target release is in a cluster, with its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The objects that it sets: what a drift watch watches. The ClusterConfiguration is not among them.
    pub managed: BTreeSet<ObjectKey>,
    /// Those among it that are role templates, by their label.
    pub templates: BTreeSet<ObjectKey>,
    /// By component, the workloads that must run.
    pub workloads: BTreeMap<String, Vec<ObjectKey>>,
    /// Whether the settings were understood, so that the above is all of it.
    pub is_whole: bool,
    /// Digest of the settings in the shape of the target release: what is moved to where it reads them changes nothing.
    pub settings: String,
}

struct Decider<'a> {
    snapshot: &'a Snapshot,
    release: &'a Release,
    options: &'a Options,
    /// What is in the snapshot and not yet in the cluster.
    foundation: &'a [Object],
    files: Files,
    findings: Vec<Finding>,
    stages: Vec<Stage>,
    settings: Option<Settings>,
    impact: Impact,
    drift: Vec<DriftOf>,
    /// The roles that the release brings, and whether each is a template.
    released_roles: Vec<(ObjectKey, bool)>,
    /// Secrets that are there and will be made anew: what refers to them waits for that.
    to_be_made: BTreeSet<Reference>,
    /// What the status will say of components.
    statuses: Vec<components::Status>,
    /// Objects of the release that already are as they should be.
    unchanged: usize,
}

impl<'a> Decider<'a> {
    fn new(snapshot: &'a Snapshot, release: &'a Release, options: &'a Options) -> Self {
        Self {
            snapshot,
            release,
            options,
            foundation: &[],
            files: Files::embedded(),
            findings: Vec::new(),
            stages: Vec::new(),
            settings: None,
            impact: Impact::default(),
            drift: Vec::new(),
            released_roles: Vec::new(),
            to_be_made: BTreeSet::new(),
            statuses: Vec::new(),
            unchanged: 0,
        }
    }

    /// Decides all stages.
    fn stages_of(&mut self, from: Option<&str>) -> components::Components {
        let snapshot = self.snapshot;
        let configuration = snapshot.get(&cluster_configuration_key());
        let empty = serde_json::json!({});
        let spec = configuration.and_then(|c| c.get("/spec")).unwrap_or(&empty);
        let status = configuration.and_then(|c| c.get("/status")).unwrap_or(&empty);
        let conversion = settings::convert(spec, status, &settings::LiveFacts::read(snapshot));
        self.findings.extend(conversion.notes.iter().cloned());
        match Settings::parse(&conversion.spec, &settings::cluster_facts(snapshot)) {
            Ok(parsed) => self.settings = Some(parsed),
            Err(findings) => self.findings.extend(findings),
        }
        self.stop_old_installer();
        if let Some(configuration) = configuration {
            self.convert_configuration(configuration, &conversion.spec);
        }
        let settings = self.settings.clone();
        let components = settings
            .map(|settings| self.components(&settings))
            .unwrap_or_default();
        self.access(from);
        if let Some(configuration) = configuration {
            self.plan_statuses(configuration, true);
            self.complete(configuration);
            self.plan_statuses(configuration, false);
        }
        self.order();
        components
    }

    /// Who begins with an installation has no users yet. Where roles and bindings of users would change, the platform is in
    /// use, and only its status was lost: it deserves a backup.
    fn check_users_are_left_alone(&mut self) {
        let of_users = ["bindings", "custom-roles", "removed-roles"];
        if self
            .stages
            .iter()
            .any(|stage| of_users.contains(&stage.name.as_str()))
        {
            self.findings.push(
                Finding::blocker(
                    reasons::ALREADY_INSTALLED,
                    "KubeSphere is in use here, though no version is noted down: users' roles would change",
                )
                .on(cluster_configuration_key())
                .hint("bring it to the release with: ks-installer upgrade, which makes a backup first"),
            );
        }
    }

    /// Plans to make what everything else is decided on.
    fn lay_foundation(&mut self) {
        for object in self.foundation {
            let action = Action::Apply {
                digest: plan::digest(object),
                body: Body(object.as_value().clone()),
                previous: Body::default(),
            };
            self.push(FOUNDATION, step(object.key(), action, None));
            if object.kind() == "CustomResourceDefinition" {
                self.wait(FOUNDATION, object.key(), Condition::Established);
            }
        }
        self.order();
    }

    fn plan(&mut self, from: Option<&str>) -> Option<Plan> {
        let snapshot = self.snapshot;
        snapshot.get(&cluster_configuration_key())?;
        let mut findings = self.findings.clone();
        preflight::sort(&mut findings);
        Some(Plan {
            format: FORMAT,
            cluster: snapshot.cluster_id().unwrap_or_default().to_owned(),
            from: from.unwrap_or(NOTHING).to_owned(),
            to: self.release.version.to_string(),
            kubernetes: snapshot.kubernetes.clone(),
            options: self.options.clone(),
            stages: std::mem::take(&mut self.stages),
            unchanged: self.unchanged,
            findings,
            impact: std::mem::take(&mut self.impact),
        })
    }

    fn outline(&self, components: &components::Components) -> Outline {
        let manifests = components.manifests.iter().map(|manifest| {
            let is_template = manifest.object.label(TEMPLATE).is_some();
            (manifest.object.key(), is_template)
        });
        let objects: BTreeMap<ObjectKey, bool> =
            manifests.chain(self.released_roles.iter().cloned()).collect();
        let settings = self.settings.as_ref();
        Outline {
            is_whole: components.is_whole && settings.is_some(),
            templates: objects
                .iter()
                .filter(|(_, is_template)| **is_template)
                .map(|(key, _)| key.clone())
                .collect(),
            managed: objects.into_keys().collect(),
            workloads: components.workloads.clone(),
            settings: settings
                .map(|settings| digest_value(settings.spec()))
                .unwrap_or_default(),
        }
    }

    fn preflight(&mut self, components: &components::Components, rendered: &[&Object]) {
        let settings = self.settings.as_ref();
        let admin = ObjectKey::cluster("iam.kubesphere.io", "User", "admin");
        if let Some(settings) = settings {
            self.findings
                .extend(settings.check(self.snapshot.get(&admin).is_some()));
        }
        let founded = self
            .foundation
            .iter()
            .map(|object| preflight::Write::of_object(object, preflight::Operation::Create));
        let writes: Vec<_> = self
            .stages
            .iter()
            .filter(|stage| stage.name != FOUNDATION)
            .flat_map(|stage| &stage.steps)
            .filter_map(|step| preflight::Write::of_step(step, self.snapshot))
            .chain(founded)
            .collect();
        let context = preflight::Context {
            target: &self.release.version,
            upgrade_from: &self.release.upgrade_from,
            kubernetes: &self.release.kubernetes,
            allow_unsupported_kubernetes: self.options.allow_unsupported_kubernetes,
            storage_class: match settings.map(|s| &s.storage_class) {
                None | Some(settings::StorageClass::Unchecked) => preflight::StorageClass::Unchecked,
                Some(settings::StorageClass::Default) => preflight::StorageClass::Default,
                Some(settings::StorageClass::Named(name)) => preflight::StorageClass::Named(name),
            },
            rendered,
            workloads: &components.present,
            writes: &writes,
            install: self.options.install,
            now: self.options.now,
        };
        let findings = preflight::check(self.snapshot, &context);
        self.findings.extend(findings);
    }

    /// The stages in the order in which they are carried out, those without steps left out.
    fn order(&mut self) {
        let release = self.release;
        self.stages.retain(|stage| !stage.steps.is_empty());
        for stage in &mut self.stages {
            let Some((component, phase)) = stage.name.split_once('/') else {
                continue;
            };
            let title = LANE.iter().find(|(name, _)| *name == phase);
            stage.title = format!("{component}: {}", title.map_or(phase, |(_, title)| title));
            stage.component = Some(component.to_owned());
        }
        let leaving: BTreeSet<String> = self
            .stages
            .iter()
            .filter(|stage| stage.name.contains("/remove-"))
            .filter_map(|stage| stage.component.clone())
            .collect();
        for stage in &mut self.stages {
            let Some(name) = &stage.component else { continue };
            stage.after = if leaving.contains(name) {
                // Whoever uses it goes first.
                let users = leaving
                    .iter()
                    .filter(|user| release.before(user).contains(name.as_str()));
                users.cloned().collect()
            } else {
                release.before(name).into_iter().map(str::to_owned).collect()
            };
        }
        let core = release.core.as_deref().unwrap_or_default();
        let before_core = release.before(core);
        let position = |stage: &Stage| {
            let of_core = |name: &str| ORDER.iter().position(|(other, _)| *other == name);
            let Some(component) = &stage.component else {
                return (of_core(&stage.name), 0, 0);
            };
            let phase = stage.name.split_once('/').map_or("", |(_, phase)| phase);
            let index = release
                .components
                .iter()
                .position(|other| other.name == *component);
            let place = LANE.iter().position(|(other, _)| *other == phase);
            // Some of people's custom resources have their controllers in the core, which is told afterwards.
            let first = phase == removal::REMOVE_CUSTOM_DATA
                || before_core.contains(component.as_str()) && !leaving.contains(component);
            let block = of_core(if first { BEFORE_CORE } else { COMPONENTS });
            (block, index.unwrap_or_default(), place.unwrap_or_default())
        };
        self.stages.sort_by_key(position);
    }
}

/// The stage of what everything else is decided on.
const FOUNDATION: &str = "foundation";

/// All stages, in order: whatever is read by a later one is written by an earlier one, and what judges writes
/// (webhooks) or says that all is done (the version in the status) comes last.
const ORDER: [(&str, &str); 19] = [
    (FOUNDATION, "Foundation"),
    ("old-installer", "Old installer"),
    ("configuration", "Configuration"),
    ("begun", "Components that are begun"),
    ("namespaces", "Namespaces"),
    ("secrets", "Secrets"),
    ("definitions", "Custom resource definitions"),
    (BEFORE_CORE, "What the core needs"),
    ("role-templates", "Role templates"),
    ("bindings", "Role bindings"),
    ("custom-roles", "Custom roles"),
    ("removed-roles", "Removed roles"),
    ("core", "Core configuration"),
    ("workloads", "Core workloads"),
    ("webhooks", "Webhooks"),
    ("helm-record", "Helm record"),
    ("helm-history", "Helm history"),
    ("completion", "Completion"),
    (COMPONENTS, "Components"),
];

/// Where the stages of components stand that the core needs, and those of all others.
const BEFORE_CORE: &str = "before-core";
const COMPONENTS: &str = "components";

/// The stages of a component, in order; first those of one that is installed or upgraded, then those of one that goes.
const LANE: [(&str, &str); 18] = [
    ("core", "configuration"),
    ("workloads", "workloads"),
    ("present-webhooks", "webhooks"),
    ("resources", "custom resources"),
    ("webhooks", "webhooks"),
    ("removal", "what is gone"),
    ("removal-definitions", "definitions that are gone"),
    ("helm-record", "Helm record"),
    ("helm-history", "Helm history"),
    (removal::REMOVE_CUSTOM_DATA, "people's custom resources go"),
    ("remove-resources", "custom resources go"),
    ("remove-webhooks", "webhooks go"),
    ("remove-workloads", "workloads go"),
    ("remove-rest", "configuration goes"),
    ("remove-definitions", "definitions go"),
    ("remove-data", "data goes"),
    ("remove-namespaces", "namespaces go"),
    ("status", "status"),
];
