//! What a person should know about the roles of a cluster, or has to decide.

use object::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::{
    AGGREGATION, DEPENDENCIES, Grants, IAM_GROUP, WORKSPACE,
    records::{BindingRecord, FEDERATED_GROUP, FederatedRecord},
    role::{Outcome, Releases},
    state::{Binding, Role},
    words::visible,
};

/// Stable names of findings. Never renamed.
pub mod reason {
    /// A custom role names a template that no release and no object of the cluster has.
    pub const UNKNOWN_TEMPLATE: &str = "UnknownTemplate";
    /// A custom role's list of templates is not a JSON list of strings.
    pub const UNREADABLE_AGGREGATION: &str = "UnreadableAggregation";
    /// A role's rules cannot be read.
    pub const UNREADABLE_RULES: &str = "UnreadableRules";
    /// A custom role does not hold all rules of its templates, so none are added.
    pub const TRIMMED_BY_HAND: &str = "TrimmedByHand";
    /// A role grants a revoked permission by rules of its own.
    pub const GRANTS_REVOKED_PERMISSION: &str = "GrantsRevokedPermission";
    /// A role of somebody's own has the name of a role that the new release brings.
    pub const BUILT_IN_NAME_TAKEN: &str = "BuiltInNameTaken";
    /// A binding refers to a role that does not exist.
    pub const DANGLING_BINDING: &str = "DanglingBinding";
    /// A WorkspaceRoleBinding says of no workspace that it counts there.
    pub const BINDING_WITHOUT_WORKSPACE: &str = "BindingWithoutWorkspace";
    /// A template that the new release no longer has is kept, because something refers to it.
    pub const TEMPLATE_STILL_REFERRED_TO: &str = "TemplateStillReferredTo";
    /// An object of a kind that says who may do what is there twice.
    pub const SAME_NAME_TWICE: &str = "SameNameTwice";
    /// A user has no platform role after the upgrade.
    pub const NO_PLATFORM_ROLE: &str = "NoPlatformRole";
    /// Nobody in a workspace can manage its members after the upgrade.
    pub const NO_MEMBER_MANAGER: &str = "NoMemberManager";
    /// A role has a Rego policy of its own, which can allow more than its rules do.
    pub const REGO_POLICY: &str = "RegoPolicy";
    /// A role or binding is on member clusters, too or only, where its own cluster decides.
    pub const ON_MEMBER_CLUSTERS: &str = "OnMemberClusters";
    /// Role templates take each other.
    pub const CYCLIC_TEMPLATES: &str = "CyclicTemplates";
    /// A custom role's rules name a verb that neither Kubernetes nor KubeSphere asks for.
    pub const UNKNOWN_VERB: &str = "UnknownVerb";
}

/// One thing to know, or to decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessFinding {
    pub object: ObjectKey,
    /// One of [`reason`].
    pub reason: String,
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The migration leaves something as it is that only a person can put right.
    pub needs_decision: bool,
}

impl AccessFinding {
    fn about(object: ObjectKey, reason: &str, message: String) -> Self {
        Self {
            object,
            reason: reason.to_owned(),
            message: visible(&message).into_owned(),
            hint: None,
            needs_decision: false,
        }
    }

    fn hint(mut self, hint: String) -> Self {
        self.hint = Some(visible(&hint).into_owned());
        self
    }

    fn for_decision(mut self) -> Self {
        self.needs_decision = true;
        self
    }
}

/// `globalroles.iam.kubesphere.io hr-desk`, as kubectl takes it.
fn kubectl_name(role: &Role<'_>) -> String {
    let plural = format!("{}s", role.id.kind.to_ascii_lowercase());
    let name = role.id.name;
    match (role.record.key().group == IAM_GROUP, role.id.namespace) {
        (true, _) => format!("{plural}.{IAM_GROUP} {name}"),
        (false, "") => format!("{plural} {name}"),
        (false, namespace) => format!("-n {namespace} {plural} {name}"),
    }
}

pub(crate) fn unknown_template(role: &Role<'_>, template: &str) -> AccessFinding {
    let message =
        format!("it names the template {template}, which does not exist; the name stays in its list");
    AccessFinding::about(role.record.key(), reason::UNKNOWN_TEMPLATE, message)
}

/// `is_replaced`: the release puts its own in the place of the rules, or another role in the place of this one.
pub(crate) fn unreadable_rules(role: &Role<'_>, error: &str, is_replaced: bool) -> AccessFinding {
    let then = if is_replaced {
        "the release replaces it, and what its people lose or gain by that is not known"
    } else {
        "it stays as it is"
    };
    let message = format!("its rules cannot be read: {error}; {then}");
    AccessFinding::about(role.record.key(), reason::UNREADABLE_RULES, message).for_decision()
}

/// The hint proposes the templates that the text seems to mean, less the revoked ones.
pub(crate) fn unreadable_aggregation(role: &Role<'_>, text: &str, releases: Releases<'_>) -> AccessFinding {
    let mut names: Vec<&str> = Vec::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && !"-.:_".contains(c)) {
        let word = releases.policy.renamed(role.level, word).unwrap_or(word);
        let is_meant = releases.to.template(role.level, word).is_some();
        if is_meant && !releases.policy.is_revoked(role.level, word) && !names.contains(&word) {
            names.push(word);
        }
    }
    let message = format!("its annotation {AGGREGATION} is not a JSON list of names; it stays as it is");
    AccessFinding::about(role.record.key(), reason::UNREADABLE_AGGREGATION, message)
        .hint(format!(
            "kubectl annotate --overwrite {} '{AGGREGATION}={}'",
            kubectl_name(role),
            serde_json::Value::from(names)
        ))
        .for_decision()
}

/// A role that does not hold all that its templates gave, or only rules that none of them gives.
pub(crate) fn trimmed(role: &Role<'_>, outcome: &Outcome) -> Option<AccessFinding> {
    let message = if outcome.is_trimmed {
        "it does not hold all rules of its templates (trimmed by hand, or made under an earlier release), so none \
         are added"
    } else if outcome.is_changed && outcome.has_only_own_rules {
        "its rules were written by hand, its templates hold none, so none are added or taken out"
    } else {
        return None;
    };
    Some(
        AccessFinding::about(role.record.key(), reason::TRIMMED_BY_HAND, message.to_owned())
            .hint("edit the role in the console to get what its templates give now".to_owned()),
    )
}

/// A role whose own rules, those that come from no template of it, grant what is revoked from templates.
pub(crate) fn grants_revoked(role: &Role<'_>, what: &str) -> AccessFinding {
    let message =
        format!("rules of its own grant what the new release takes out of custom roles: {what}; they stay");
    AccessFinding::about(role.record.key(), reason::GRANTS_REVOKED_PERMISSION, message)
        .hint(format!("kubectl edit {}", kubectl_name(role)))
        .for_decision()
}

/// A role whose policy goes on allowing what it allows, whatever becomes of its rules.
pub(crate) fn keeps_policy(role: &Role<'_>) -> AccessFinding {
    let message = "it has a Rego policy, which stays and may allow what the new release revokes; the impact counts \
                   its rules only";
    AccessFinding::about(role.record.key(), reason::REGO_POLICY, message.to_owned())
        .hint("read the policy, and ask afterwards with: ks-installer access check".to_owned())
        .for_decision()
}

/// A role that goes, and takes along what only its policy allowed.
pub(crate) fn loses_policy(role: &Role<'_>) -> AccessFinding {
    let message =
        "it is removed, and what its Rego policy allowed goes with it; the impact counts its rules only";
    AccessFinding::about(role.record.key(), reason::REGO_POLICY, message.to_owned())
        .hint("read the policy, and give its users a role that allows the same".to_owned())
        .for_decision()
}

/// A role that somebody made under a name that is built in from the new release on.
pub(crate) fn check_name_taken(role: &Role<'_>, releases: Releases<'_>) -> Option<AccessFinding> {
    let built_in = releases.to.role(role.level, role.id.name, role.workspace)?;
    let was_built_in = releases
        .from
        .role(role.level, role.id.name, role.workspace)
        .is_some();
    if was_built_in || Grants::of(role.rules()).equals(&built_in.grants) {
        return None;
    }
    let message = "the new release has a built-in role of this name, which takes its place".to_owned();
    Some(
        AccessFinding::about(role.record.key(), reason::BUILT_IN_NAME_TAKEN, message)
            .hint("copy it to another name, and bind its users to that".to_owned())
            .for_decision(),
    )
}

pub(crate) fn still_referred_to(role: &Role<'_>, referrer: &str) -> AccessFinding {
    let message =
        format!("the new release no longer has this template; it stays, since {referrer} refers to it");
    AccessFinding::about(role.record.key(), reason::TEMPLATE_STILL_REFERRED_TO, message)
}

pub(crate) fn dangling(binding: &Binding<'_>) -> AccessFinding {
    let message = format!(
        "it refers to {} {}, which does not exist, and grants nothing",
        binding.role.kind, binding.role.name
    );
    AccessFinding::about(binding.record.key(), reason::DANGLING_BINDING, message).for_decision()
}

/// `workspace` is the one that its role is in, where that is known.
pub(crate) fn without_workspace(binding: &BindingRecord, workspace: Option<&str>) -> AccessFinding {
    let message = format!("it has no label {WORKSPACE}, so it counts in no workspace and grants nothing");
    let (name, workspace) = (&binding.name, workspace.unwrap_or("WORKSPACE"));
    AccessFinding::about(binding.key(), reason::BINDING_WITHOUT_WORKSPACE, message)
        .hint(format!(
            "kubectl label --overwrite workspacerolebindings.{IAM_GROUP} {name} {WORKSPACE}={workspace}"
        ))
        .for_decision()
}

pub(crate) fn twice(key: ObjectKey) -> AccessFinding {
    let message = "it is there twice; what was read last counts".to_owned();
    AccessFinding::about(key, reason::SAME_NAME_TWICE, message).for_decision()
}

/// What of a role or binding does not go on in the new release.
#[derive(Debug, Default)]
pub(crate) struct Going {
    /// Names in its list of templates.
    pub(crate) revoked: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) renamed: Vec<String>,
    /// What bindings to its role, which is removed, get.
    pub(crate) replacement: Option<String>,
}

fn placed_on(record: &FederatedRecord) -> String {
    match &record.clusters[..] {
        [] => "the member clusters that its placement selects".to_owned(),
        [one] => format!("member cluster {one}"),
        more => format!("member clusters {}", more.join(", ")),
    }
}

/// `kubectl edit federatedglobalroles.types.kubefed.io far`
fn edit_federated(record: &FederatedRecord) -> String {
    let plural = record.kind.to_ascii_lowercase();
    let place = match &*record.namespace {
        "" => String::new(),
        namespace => format!("-n {namespace} "),
    };
    format!("kubectl edit {place}{plural}s.{FEDERATED_GROUP} {}", record.name)
}

/// What KubeFed carries to member clusters; `is_here`: this cluster has it, too.
pub(crate) fn on_member_clusters(record: &FederatedRecord, is_here: bool, going: &Going) -> AccessFinding {
    let places = placed_on(record);
    let is_on = match (&record.role, is_here) {
        (Some(role), false) => format!("it binds to {role} on {places} only"),
        (Some(role), true) => format!("it binds to {role} here and on {places}"),
        (None, false) => format!("it is on {places} only"),
        (None, true) => format!("it is here and on {places}"),
    };
    let about = |message| AccessFinding::about(record.key(), reason::ON_MEMBER_CLUSTERS, message);
    if let Some(replacement) = &going.replacement {
        return about(format!(
            "{is_on}, which the new release removes; there it stays as it is"
        ))
        .hint(format!(
            "{}: let it refer to {replacement}; and upgrade {places} too",
            edit_federated(record)
        ))
        .for_decision();
    }
    let lists = [
        ("revokes", &going.revoked),
        ("removes", &going.removed),
        ("renames", &going.renamed),
    ];
    let lists = lists.into_iter().filter(|(_, names)| !names.is_empty());
    let lists: Vec<String> = lists
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    if lists.is_empty() {
        return about(format!("{is_on}; what it grants there is decided there"));
    }
    about(format!(
        "{is_on}, and names templates that change: the new release {}; there it stays as it is",
        lists.join("; it ")
    ))
    .hint(format!(
        "upgrade {places} too, and edit the role in the console or with {}",
        edit_federated(record)
    ))
    .for_decision()
}

pub(crate) fn unreadable_federated_aggregation(record: &FederatedRecord) -> AccessFinding {
    let message = format!(
        "the annotation {AGGREGATION} that it carries to {} is not a JSON list of names; it stays as it is",
        placed_on(record)
    );
    AccessFinding::about(record.key(), reason::UNREADABLE_AGGREGATION, message)
        .hint(format!(
            "{}: make it a list such as [], and upgrade {} too",
            edit_federated(record),
            placed_on(record)
        ))
        .for_decision()
}

/// A ring of templates, from its first name on.
pub(crate) fn cyclic_templates(ring: &[&Role<'_>]) -> AccessFinding {
    let names = ring.iter().chain(ring.first()).map(|role| role.id.name);
    let names: Vec<&str> = names.collect();
    let message = format!("templates depend on each other in a ring: {}", names.join(" → "));
    AccessFinding::about(ring[0].record.key(), reason::CYCLIC_TEMPLATES, message).hint(format!(
        "take one of the names out of the annotation {DEPENDENCIES} before it"
    ))
}

pub(crate) fn unknown_verbs(role: &Role<'_>, verbs: &[&str]) -> AccessFinding {
    let verbs: Vec<String> = verbs.iter().map(|verb| format!("{verb:?}")).collect();
    let message = format!(
        "its rules name verbs that neither Kubernetes nor KubeSphere knows: {}",
        verbs.join(", ")
    );
    AccessFinding::about(role.record.key(), reason::UNKNOWN_VERB, message)
}

pub(crate) fn no_platform_role(key: ObjectKey, had_one: bool) -> AccessFinding {
    let message = if had_one {
        "this user has no platform role after the upgrade"
    } else {
        "this user has no platform role, before the upgrade or after it"
    };
    AccessFinding::about(key, reason::NO_PLATFORM_ROLE, message.to_owned())
        .hint("give the user a platform role in the console".to_owned())
        .for_decision()
}

/// `what` nobody can do any more: `manage`, `add or remove`.
pub(crate) fn no_member_manager(key: ObjectKey, what: &str) -> AccessFinding {
    let message = format!(
        "after the upgrade nobody who is bound in this workspace can {what} its members; administrators of the \
         platform still can"
    );
    AccessFinding::about(key, reason::NO_MEMBER_MANAGER, message)
        .hint(
            "make somebody its administrator; ks-installer access impact --suggest proposes whom".to_owned(),
        )
        .for_decision()
}
