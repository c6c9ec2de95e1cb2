//! The stable reasons of findings. Scripts may rely on them: none is ever renamed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use ::access::reason as access;
use release::Release;

use crate::{
    Severity::{self, Blocker, Info, Warning},
    settings::reasons as settings,
};

/// One reason, as documentation has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// PascalCase.
    pub name: &'static str,
    /// The severities that findings of this reason have.
    pub severities: &'static [Severity],
    /// One sentence without a full stop.
    pub description: &'static str,
}

macro_rules! reasons {
    ($($constant:ident = $name:literal [$($severity:ident),+] $description:literal;)+) => {
        $(#[doc = $description] pub const $constant: &str = $name;)+

        const OWN: &[Reason] = &[
            $(Reason { name: $name, severities: &[$($severity),+], description: $description },)+
        ];
    };
}

reasons! {
    ACCESS_NOT_AS_ANNOUNCED = "AccessNotAsAnnounced" [Warning]
        "Afterwards somebody can do more or less than the impact announced";
    ALREADY_AT_TARGET = "AlreadyAtTarget" [Info]
        "The cluster is at the target version already; only what is not as it should be is written";
    ALREADY_INSTALLED = "AlreadyInstalled" [Blocker]
        "The cluster has a KubeSphere of another version, which an installation leaves alone";
    ANNOTATIONS_NEAR_LIMIT = "AnnotationsNearLimit" [Warning, Info]
        "An object's annotations come near the 256 KiB that Kubernetes allows, mostly by what client-side kubectl apply records";
    API_NOT_SERVED = "ApiNotServed" [Blocker]
        "The new release needs a kind or API version that the API server does not serve";
    API_SERVICE_UNAVAILABLE = "ApiServiceUnavailable" [Blocker, Warning]
        "An aggregated API is registered, but nothing serves it";
    BACKUP_OF_ANOTHER_CLUSTER = "BackupOfAnotherCluster" [Blocker]
        "The backup that is to be rolled back to was made of another cluster";
    BACKUP_UNUSABLE = "BackupUnusable" [Blocker]
        "What the upgrade did cannot be told from the backup that is to be rolled back to";
    BEING_DELETED = "BeingDeleted" [Blocker, Warning]
        "An object that the upgrade is to write is being deleted and waits for a finalizer";
    BINDING_LOST = "BindingLost" [Blocker]
        "Afterwards a binding is gone, or no longer binds whom it bound to what it bound them to";
    BINDING_WITHOUT_ROLE = "BindingWithoutRole" [Blocker]
        "Afterwards a binding refers to a role that the upgrade took away";
    BUILT_IN_ROLES_BEHIND = "BuiltInRolesBehind" [Warning]
        "Built-in roles of workspaces and projects are not yet as the new release has them; ks-controller-manager sees to that";
    CATALOG_UNREADABLE = "CatalogUnreadable" [Blocker]
        "The installer's own list of a release's roles cannot be read";
    CLUSTER_CONFIGURATION_MISSING = "ClusterConfigurationMissing" [Blocker]
        "KubeSphere runs without its ClusterConfiguration, so its settings are not known";
    CLUSTER_CONFIGURATION_UNREADABLE = "ClusterConfigurationUnreadable" [Blocker]
        "The ClusterConfiguration has no readable spec";
    COMPONENT_HAS_NO_SWITCH = "ComponentHasNoSwitch" [Blocker]
        "A component is there always, or as long as others need it, and so cannot be enabled or disabled by itself";
    COMPONENT_IN_USE = "ComponentInUse" [Blocker, Warning]
        "A component is to be switched off, but stays, since something else that is enabled needs it; a blocker when it is disabled by command";
    COMPONENT_MISSING = "ComponentMissing" [Blocker, Warning]
        "A workload that the platform needs does not exist; a blocker afterwards";
    COMPONENT_NEEDS_ANOTHER = "ComponentNeedsAnother" [Blocker]
        "A component is to be enabled that needs another one, which is switched off";
    COMPONENT_NOT_ASKED_FOR = "ComponentNotAskedFor" [Blocker]
        "A component is to be enabled, and a setting besides its switch forbids it";
    COMPONENT_SET_OTHERWISE = "ComponentSetOtherwise" [Blocker]
        "The setting that switches a component says something that is neither on nor off, and switching it would overwrite that";
    COMPONENT_STILL_RUNS = "ComponentStillRuns" [Info]
        "A component is switched off, but an earlier installer, which removes nothing, left it running";
    COMPONENT_UNHEALTHY = "ComponentUnhealthy" [Warning]
        "A workload that the platform needs does not run well before the upgrade";
    CONVERSION_UNAVAILABLE = "ConversionUnavailable" [Blocker, Warning]
        "The conversion webhook of a CustomResourceDefinition does not answer";
    DATA_STAYS = "DataStays" [Info]
        "A component that is switched off leaves its data behind, for when it is enabled again";
    DEFINITION_INCOMPATIBLE = "DefinitionIncompatible" [Blocker]
        "A CustomResourceDefinition differs from the release's in a field that cannot be changed";
    DEFINITION_KEPT = "DefinitionKept" [Warning, Info]
        "A CustomResourceDefinition that somebody else brought knows more than the release's and stays; a warning where it lacks what a component sets";
    DEFINITION_NOT_ESTABLISHED = "DefinitionNotEstablished" [Blocker]
        "Afterwards a CustomResourceDefinition of the release is not served";
    DEFINITION_STAYS = "DefinitionStays" [Warning]
        "A rollback leaves a CustomResourceDefinition as it is, since objects would become invalid or lose something";
    DRIFT_KEPT = "DriftKept" [Info]
        "A field of a released object was changed by hand and stays so";
    DRIFT_OVERWRITTEN = "DriftOverwritten" [Warning]
        "A field of a released object was changed by hand and gets the release's value";
    HELM_IN_PROGRESS = "HelmInProgress" [Blocker]
        "Helm began an operation on one of the platform's releases minutes ago and may be at work still";
    HELM_RECORD_TOO_LARGE = "HelmRecordTooLarge" [Warning]
        "Helm's record of the new release would be larger than a Secret can be, so none is written";
    HELM_RECORD_UNREADABLE = "HelmRecordUnreadable" [Warning]
        "Helm's record of the old release cannot be read, so what that release set is not known";
    HELM_RELEASE_PENDING = "HelmReleasePending" [Warning]
        "A Helm release hangs in an operation, because helm was killed in the middle";
    IMMUTABLE_KEPT = "ImmutableKept" [Info]
        "A field differs from what the release sets and stays, since Kubernetes does not let it be changed";
    INSTALLATION_INTERRUPTED = "InstallationInterrupted" [Info]
        "An earlier installation was cut and is finished by this one";
    KUBERNETES_EXPERIMENTAL = "KubernetesExperimental" [Warning]
        "The release supports this Kubernetes version experimentally";
    KUBERNETES_UNSUPPORTED = "KubernetesUnsupported" [Blocker, Warning]
        "The release does not support this Kubernetes version; a warning where that was explicitly allowed";
    KUBERNETES_VERSION_UNREADABLE = "KubernetesVersionUnreadable" [Blocker, Warning]
        "The API server's version is none; a warning where an unsupported one was explicitly allowed";
    LEGACY_LEFTOVER = "LegacyLeftover" [Warning]
        "Something of a release before 3.2 is still there, though nothing uses it";
    MANIFEST_DOES_NOT_RENDER = "ManifestDoesNotRender" [Blocker]
        "A manifest of the release cannot be made from the settings";
    NAMESPACE_TERMINATING = "NamespaceTerminating" [Blocker, Warning]
        "A namespace that the upgrade writes in is being deleted";
    NODES_TOO_SMALL = "NodesTooSmall" [Warning]
        "A pod of the new release asks for more than any node has that may take it";
    NODE_NOT_READY = "NodeNotReady" [Info]
        "A node is not ready or cordoned";
    NOT_CONVERGED = "NotConverged" [Warning]
        "After the upgrade another run would write again, since somebody else writes too";
    NO_CATALOG_FOR_VERSION = "NoCatalogForVersion" [Warning]
        "What permissions the installed version shipped is not known; those of the nearest older one are taken";
    NO_DEFAULT_STORAGE_CLASS = "NoDefaultStorageClass" [Blocker]
        "The settings name no StorageClass, and the cluster has no default one";
    NOT_ENOUGH_NODES = "NotEnoughNodes" [Warning]
        "Replicas of the new release would find no node that takes them";
    NOT_AT_RELEASE = "NotAtRelease" [Blocker]
        "Components are to be enabled or disabled, and the platform is not at the release that they are of";
    NOT_INSTALLED = "NotInstalled" [Blocker]
        "There is no KubeSphere on the cluster";
    PERMISSION_MISSING = "PermissionMissing" [Blocker, Warning]
        "The caller lacks a permission that the plan needs";
    PERMISSION_LOST = "PermissionLost" [Blocker]
        "Afterwards a custom role no longer grants something that was not revoked";
    PODS_KEEP_OLD_TEMPLATE = "PodsKeepOldTemplate" [Warning]
        "Pods go on as they were until somebody deletes them, since their workload's update strategy says so";
    PRE_RELEASE = "PreRelease" [Warning]
        "The cluster runs a build of KubeSphere that was never released";
    REMOVED_ROLE_LEFT = "RemovedRoleLeft" [Blocker]
        "Afterwards a role that the new release no longer has is still there";
    REVOKED_TEMPLATE_HELD = "RevokedTemplateHeld" [Blocker]
        "Afterwards a custom role still holds a revoked template";
    ROLE_CHANGED = "RoleChanged" [Blocker]
        "Afterwards a custom role lacks labels, annotations or finalizers that it had";
    ROLE_LOST = "RoleLost" [Blocker]
        "Afterwards a custom role is gone, or was made anew";
    ROLLBACK_CONFLICT = "RollbackConflict" [Warning]
        "Something that the upgrade set was changed since; a rollback leaves it as it is now";
    ROLLBACK_INEXACT = "RollbackInexact" [Warning]
        "Another version of the installer made the backup, so what it set is not known exactly";
    ROLLBACK_KEPT = "RollbackKept" [Info]
        "Something that the upgrade created stays after a rollback, since it is in use or holds data";
    ROLLOUT_INCOMPLETE = "RolloutIncomplete" [Blocker]
        "Afterwards a workload of the release has not rolled out";
    SERVICE_PAUSES = "ServicePauses" [Info]
        "A part of the platform serves nobody while its new pod starts, since no further node can take that one meanwhile";
    SEVERAL_DEFAULT_STORAGE_CLASSES = "SeveralDefaultStorageClasses" [Warning]
        "More than one StorageClass is marked as the default one";
    STORAGE_CLASS_MISSING = "StorageClassMissing" [Blocker]
        "The StorageClass that the settings name does not exist";
    STORED_VERSION_DROPPED = "StoredVersionDropped" [Blocker]
        "Objects may be stored in a version that the release's CustomResourceDefinition no longer has";
    STORED_VERSION_NOT_SERVED = "StoredVersionNotServed" [Warning]
        "Objects may be stored in a version that is no longer served";
    UNKNOWN_RELEASE = "UnknownRelease" [Blocker]
        "The installer does not know the release that was asked for";
    UNREADABLE_RESOURCE = "UnreadableResource" [Blocker, Warning]
        "A resource could not be read, so that what depends on it is not known";
    UPGRADE_INTERRUPTED = "UpgradeInterrupted" [Info]
        "An earlier upgrade was cut and is finished by this one";
    USER_LOST = "UserLost" [Blocker]
        "Afterwards a user or group is gone, or was made anew";
    VERSION_NOT_REACHED = "VersionNotReached" [Blocker]
        "Afterwards the ClusterConfiguration does not say that the new version is reached";
    VERSION_PAST_TARGET = "VersionPastTarget" [Blocker]
        "The cluster runs a KubeSphere that is newer than the target";
    VERSION_TOO_OLD = "VersionTooOld" [Blocker]
        "The cluster runs a KubeSphere from which the target cannot be reached in one step";
    VERSION_UNREADABLE = "VersionUnreadable" [Blocker]
        "KubeSphere's version cannot be read";
    VERSION_WITHDRAWN = "VersionWithdrawn" [Warning]
        "The release's CustomResourceDefinition no longer serves a version that is served now";
    WEBHOOK_REFUSES_WRITES = "WebhookRefusesWrites" [Blocker]
        "A webhook that does not answer would make the API server refuse writes of the upgrade";
    WEBHOOK_SLOW = "WebhookSlow" [Info]
        "A webhook that does not answer is passed over, but only after its timeout";
    WEBHOOK_UNAVAILABLE = "WebhookUnavailable" [Warning]
        "A webhook that does not answer makes the API server refuse changes that the upgrade does not make";
    WEBHOOK_WITHOUT_ENDPOINT = "WebhookWithoutEndpoint" [Blocker]
        "Afterwards nothing answers for a webhook of the release";
}

const fn reason(name: &'static str, severities: &'static [Severity], description: &'static str) -> Reason {
    Reason {
        name,
        severities,
        description,
    }
}

/// Reasons that other modules define.
const FOREIGN: &[Reason] = &[
    reason(
        access::BINDING_WITHOUT_WORKSPACE,
        &[Warning, Info],
        "A WorkspaceRoleBinding lacks the label that says in which workspace it counts, and grants nothing",
    ),
    reason(
        access::BUILT_IN_NAME_TAKEN,
        &[Warning, Info],
        "A role of somebody's own has the name of a role that the new release brings",
    ),
    reason(
        access::CYCLIC_TEMPLATES,
        &[Info],
        "Role templates depend on each other in a ring",
    ),
    reason(
        access::DANGLING_BINDING,
        &[Warning, Info],
        "A binding refers to a role that does not exist",
    ),
    reason(
        access::GRANTS_REVOKED_PERMISSION,
        &[Warning, Info],
        "A role grants a revoked permission by rules of its own, which are left alone",
    ),
    reason(
        access::NO_MEMBER_MANAGER,
        &[Warning, Info],
        "After the upgrade nobody but administrators of the platform can manage the members of a workspace",
    ),
    reason(
        access::NO_PLATFORM_ROLE,
        &[Warning, Info],
        "A user has no platform role after the upgrade",
    ),
    reason(
        access::ON_MEMBER_CLUSTERS,
        &[Warning, Info],
        "A role or binding is on member clusters, too or only, which decide by themselves",
    ),
    reason(
        access::REGO_POLICY,
        &[Warning, Info],
        "A role that somebody made, or that goes, has a Rego policy, which the impact does not count",
    ),
    reason(
        access::SAME_NAME_TWICE,
        &[Warning, Info],
        "An object that says who may do what is there twice",
    ),
    reason(
        access::TEMPLATE_STILL_REFERRED_TO,
        &[Warning, Info],
        "A role template that the new release no longer has is kept, because something refers to it",
    ),
    reason(
        access::TRIMMED_BY_HAND,
        &[Warning, Info],
        "A custom role does not hold all rules of its templates, so none are added",
    ),
    reason(
        access::UNKNOWN_TEMPLATE,
        &[Warning, Info],
        "A custom role names a template that no release and no object of the cluster has",
    ),
    reason(
        access::UNKNOWN_VERB,
        &[Info],
        "The rules of a custom role name a verb that neither Kubernetes nor KubeSphere knows",
    ),
    reason(
        access::UNREADABLE_AGGREGATION,
        &[Warning, Info],
        "A custom role's list of templates is not a JSON list of names, so the role is left alone",
    ),
    reason(
        access::UNREADABLE_RULES,
        &[Warning, Info],
        "A role's rules cannot be read, so what it grants is not known",
    ),
    reason(
        settings::ADMIN_PASSWORD,
        &[Blocker, Warning],
        "The initial password of User admin in the settings breaks the password rule",
    ),
    reason(
        settings::IGNORED_SETTING,
        &[Info],
        "A setting is known and has no effect",
    ),
    reason(
        settings::INVALID_SETTING,
        &[Blocker],
        "A setting is not of its type",
    ),
    reason(
        settings::REPLICAS_WITHOUT_REDIS,
        &[Warning],
        "ks-apiserver would run several times without a redis to keep sessions in",
    ),
    reason(
        settings::SETTING_CONFLICT,
        &[Warning],
        "A setting is set under its old and its new name, differently",
    ),
    reason(
        settings::SETTING_DEFAULTED,
        &[Info],
        "A setting was written out, since what decides it is about to be lost",
    ),
    reason(
        settings::SETTING_DROPPED,
        &[Info],
        "A setting of an older shape was left out",
    ),
    reason(
        settings::SETTING_MOVED,
        &[Info],
        "A setting of an older shape has a new place",
    ),
    reason(
        settings::UNKNOWN_COMPONENT,
        &[Blocker],
        "The settings enable something that is no component of KubeSphere",
    ),
    reason(
        settings::UNKNOWN_SETTING,
        &[Warning],
        "A setting that KubeSphere never had; it is kept",
    ),
];

/// All reasons, sorted by name.
pub fn all() -> Vec<&'static Reason> {
    let mut all: Vec<&Reason> = OWN.iter().chain(FOREIGN).collect();
    all.sort_by_key(|reason| reason.name);
    all
}

/// The reason of that name.
pub fn find(name: &str) -> Option<&'static Reason> {
    OWN.iter().chain(FOREIGN).find(|reason| reason.name == name)
}

/// The reasons of the release's own checks, each with its severities and what it means. What keeps a component out is a blocker
/// where somebody enables it, and a warning where it is enabled already.
fn of_checks(release: &Release) -> BTreeMap<&str, (BTreeSet<Severity>, BTreeSet<String>)> {
    let mut found: BTreeMap<&str, (BTreeSet<Severity>, BTreeSet<String>)> = BTreeMap::new();
    for component in &release.components {
        for check in &component.checks {
            let (severities, descriptions) = found.entry(&check.reason).or_default();
            severities.insert(Warning);
            severities.extend((!check.warning).then_some(Blocker));
            severities.extend(check.always.then_some(Info));
            descriptions.insert(format!("Component {}: {}", component.name, check.message));
        }
    }
    found
}

/// The table of all reasons, as docs/findings.md has it; those of a release's checks among them.
pub fn document(release: &Release) -> String {
    let mut text = String::from(
        "# Findings\n\n\
         What the checks before an upgrade, the plan and the verification afterwards report. The reasons are stable:\n\
         scripts may rely on them. A *blocker* keeps the upgrade from writing anything, or says that an upgrade did not\n\
         come out as it should; a *warning* asks somebody to look; an *info* is worth knowing. This file is generated\n\
         from `crates/upgrade/src/reasons.rs` and the checks in `component.yaml` of each component.\n\n\
         | reason | severity | meaning |\n|---|---|---|\n",
    );
    let word = |severity: &Severity| match severity {
        Blocker => "blocker",
        Warning => "warning",
        Info => "info",
    };
    let own = all().into_iter().map(|reason| {
        let severities: Vec<&str> = reason.severities.iter().map(word).collect();
        (reason.name, severities, reason.description.to_owned())
    });
    let of_checks = of_checks(release)
        .into_iter()
        .map(|(name, (severities, descriptions))| {
            let descriptions = Vec::from_iter(descriptions).join(". ");
            (name, severities.iter().map(word).collect(), descriptions)
        });
    let mut rows: Vec<_> = own.chain(of_checks).collect();
    rows.sort_by_key(|(name, ..)| *name);
    for (name, severities, description) in rows {
        let _ = writeln!(text, "| `{name}` | {} | {description} |", severities.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_unique_pascal_case_and_described() {
        let all = all();
        for pair in all.windows(2) {
            assert_ne!(pair[0].name, pair[1].name);
        }
        for reason in all {
            assert!(
                reason.name.starts_with(|c: char| c.is_ascii_uppercase()),
                "{}",
                reason.name
            );
            assert!(
                reason.name.chars().all(|c| c.is_ascii_alphanumeric()),
                "{}",
                reason.name
            );
            assert!(
                !reason.description.ends_with('.') && !reason.severities.is_empty(),
                "{}",
                reason.name
            );
        }
    }

    /// Reasons that other modules define are easily forgotten here.
    #[test]
    fn no_reason_of_another_module_is_missing() {
        for source in [
            include_str!("settings/reasons.rs"),
            include_str!("../../access/src/finding.rs"),
        ] {
            let constants = source
                .lines()
                .filter_map(|line| line.trim().strip_prefix("pub const "));
            for constant in constants {
                let name = constant.split('"').nth(1).unwrap();
                assert!(find(name).is_some(), "{name} is missing");
            }
        }
    }

    #[test]
    fn reasons_of_checks_are_of_the_same_form_and_in_the_document() {
        let releases = release::Releases::embedded().unwrap();
        let release = releases.latest().unwrap();
        let text = document(release);
        for (name, (_, descriptions)) in of_checks(release) {
            assert!(find(name).is_none(), "{name} means something else already");
            let is_pascal = name.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(
                is_pascal && name.chars().all(|c| c.is_ascii_alphanumeric()),
                "{name}"
            );
            for description in descriptions {
                assert!(
                    !description.ends_with('.') && !description.contains('|'),
                    "{description}"
                );
            }
            assert!(text.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn the_document_is_fresh() {
        let releases = release::Releases::embedded().unwrap();
        assert!(
            document(releases.latest().unwrap()) == include_str!("../../../docs/findings.md"),
            "docs/findings.md is not fresh: run `cargo run -p upgrade --example findings > docs/findings.md`"
        );
    }
}
