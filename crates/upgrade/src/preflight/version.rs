//! Which KubeSphere and which Kubernetes there is, and whether the upgrade leads on from there.

use object::{Object, ObjectKey};
use release::Version;
use serde_json::Value;

use super::{Context, SYSTEM_NAMESPACE};
use crate::{Finding, Install, Snapshot, reasons, settings::cluster_configuration};

/// A version as it is found in clusters: `v3.2.1`, `v1.22.3-eks-18ef993`, `v1.21.5+k3s1`, `v1.18.20-tke.01`.
/// Vendors' suffixes are no pre-releases by semver's rules, often not even readable ones, so they are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LooseVersion {
    /// Major, minor and patch.
    pub base: Version,
    /// What follows, with its `-` or `+`; empty for a plain version.
    pub suffix: String,
}

impl LooseVersion {
    /// Reads a version, with or without `v`; a missing patch number is 0. `None` where there is no version in it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (numbers, suffix) = text.split_at(end);
        if !suffix.is_empty() && !suffix.starts_with(['-', '+']) {
            return None;
        }
        let mut numbers = numbers.split('.').map(str::parse::<u64>);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().transpose().ok()?.unwrap_or_default();
        if numbers.next().is_some() {
            return None;
        }
        let base = format!("{major}.{minor}.{patch}").parse().ok()?;
        Some(Self {
            base,
            suffix: suffix.to_owned(),
        })
    }

    /// Whether it was built before or beside a release: `-rc.1`, `-dirty`. Build metadata after `+` says nothing.
    pub fn is_pre_release(&self) -> bool {
        self.suffix.starts_with('-')
    }
}

/// What the cluster says about its KubeSphere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    No,
    /// It is there, in a version that cannot be read.
    Unreadable {
        text: String,
        /// Where the text stands.
        source: &'static str,
    },
    Version {
        version: LooseVersion,
        /// As written: `v3.2.1`.
        text: String,
        source: &'static str,
    },
}

impl Installed {
    /// The version as the cluster writes it, e.g. `v3.2.1`; `None` where there is none that can be read.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Version { text, .. } => Some(text),
            Self::No | Self::Unreadable { .. } => None,
        }
    }
}

const STATUS: &str = "status.core.version of the ClusterConfiguration";
const IMAGE: &str = "the image of Deployment ks-apiserver";

/// Which KubeSphere is installed: by the ClusterConfiguration's status, which the installer writes last, else by
/// the image that ks-apiserver runs.
pub fn installed(snapshot: &Snapshot) -> Installed {
    let status = noted_version(snapshot);
    let image = apiserver_tag(snapshot);
    let candidates: Vec<(String, &'static str)> = status
        .map(|text| (text.to_owned(), STATUS))
        .into_iter()
        .chain(image.map(|tag| (tag, IMAGE)))
        .collect();
    for (text, source) in &candidates {
        if let Some(version) = LooseVersion::parse(text) {
            return Installed::Version {
                version,
                text: text.clone(),
                source,
            };
        }
    }
    match candidates.into_iter().next() {
        Some((text, source)) => Installed::Unreadable { text, source },
        None => Installed::No,
    }
}

/// The version by the status, which is written last of all.
fn noted_version(snapshot: &Snapshot) -> Option<&str> {
    snapshot
        .get(&cluster_configuration())
        .and_then(|object| object.get_str("/status/core/version"))
        .filter(|text| !text.is_empty())
}

/// Whether what is to be done is an installation: there is a ClusterConfiguration and no KubeSphere, or one whose
/// installation was begun and did not come to its end. Then ks-apiserver may run what the release renders, while no version
/// is noted down and Helm has no record yet. (With a record it may as well be that only the status was lost: then it is
/// upgraded, with a backup, unless nothing but an installation is asked for.)
pub fn is_installation(snapshot: &Snapshot, install: Install, rendered: &[&Object]) -> bool {
    if install == Install::No || snapshot.get(&cluster_configuration()).is_none() {
        return false;
    }
    match installed(snapshot) {
        Installed::No => true,
        _ if noted_version(snapshot).is_some() => false,
        _ => {
            let key = apiserver();
            let to_come = rendered.iter().find(|object| object.key() == key);
            let is_same = to_come.is_some_and(|to_come| Some(tag_of(to_come)) == apiserver_tag(snapshot));
            is_same && (install == Install::Only || !has_record(snapshot))
        }
    }
}

/// Whether Helm has a record of the release that ks-apiserver is a part of.
fn has_record(snapshot: &Snapshot) -> bool {
    snapshot.of_kind("", "Secret").any(|secret| {
        secret.namespace() == Some(SYSTEM_NAMESPACE)
            && secret.label("owner") == Some("helm")
            && secret.label("name") == Some("ks-core")
    })
}

fn apiserver() -> ObjectKey {
    ObjectKey::namespaced("apps", "Deployment", SYSTEM_NAMESPACE, "ks-apiserver")
}

/// The tag of the image that ks-apiserver runs; empty when the image has none.
fn apiserver_tag(snapshot: &Snapshot) -> Option<String> {
    snapshot.get(&apiserver()).map(tag_of)
}

fn tag_of(apiserver: &Object) -> String {
    let containers = apiserver
        .get("/spec/template/spec/containers")
        .and_then(Value::as_array);
    let image = containers
        .into_iter()
        .flatten()
        .find(|c| c.get("name").and_then(Value::as_str) == Some("ks-apiserver"))
        .and_then(|c| c.get("image")?.as_str())
        .unwrap_or_default();
    let image = image.split('@').next().unwrap_or_default();
    // A colon before the last slash belongs to a registry's port.
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':')
        .map_or_else(String::new, |(_, tag)| tag.to_owned())
}

pub(super) fn check_kubesphere(
    snapshot: &Snapshot,
    installed: &Installed,
    context: &Context<'_>,
) -> Vec<Finding> {
    let target = context.target;
    let from = &context.upgrade_from.range;
    let configuration = cluster_configuration();
    if *installed != Installed::No && is_installation(snapshot, context.install, context.rendered) {
        return vec![Finding::info(
            reasons::INSTALLATION_INTERRUPTED,
            format!("an installation of {target} was begun and did not come to its end; it goes on now"),
        )];
    }
    let (version, text, source) = match installed {
        Installed::No => {
            let decisive = [
                "clusterconfigurations.installer.kubesphere.io",
                "deployments.apps",
            ];
            if let Some(unreadable) = snapshot
                .unreadable
                .iter()
                .find(|u| decisive.contains(&u.resource.as_str()))
            {
                return vec![
                    Finding::blocker(
                        reasons::VERSION_UNREADABLE,
                        format!("whether KubeSphere is installed is not known: {} cannot be read", unreadable.resource),
                    )
                    .hint("run it as somebody who may read them; a caller bound to cluster-admin has all that is needed"),
                ];
            }
            let (message, hint) = match (snapshot.get(&configuration).is_some(), context.install) {
                (true, Install::WhereAbsent | Install::Only) => return Vec::new(),
                (true, Install::No) => (
                    "KubeSphere is not installed: there is a ClusterConfiguration, but no installation ever finished",
                    "install it, or go on with its installation: ks-installer install",
                ),
                (false, Install::No) => (
                    "KubeSphere is not installed on this cluster",
                    "if this is the right cluster (kubectl config current-context), install it: ks-installer install",
                ),
                (false, _) => (
                    "KubeSphere is not installed on this cluster, and there is no ClusterConfiguration that says how it should be",
                    "kubectl apply -f deploy/cluster-configuration.yaml, or ks-installer install",
                ),
            };
            return vec![Finding::blocker(reasons::NOT_INSTALLED, message).hint(hint)];
        }
        Installed::Unreadable { text, source } => {
            let message = if text.is_empty() {
                format!("KubeSphere's version is not known: {source} says nothing")
            } else {
                format!("KubeSphere's version cannot be read: {source} says {text:?}")
            };
            return vec![Finding::blocker(reasons::VERSION_UNREADABLE, message).on(configuration).hint(format!(
                "an upgrade leads from {from} to {target}; if the cluster runs such a release, write its version into \
                 status.core.version, with the v in front"
            ))];
        }
        Installed::Version {
            version,
            text,
            source,
        } => (version, text, source),
    };
    let mut findings = Vec::new();
    let base = &version.base;
    if base > target {
        findings.push(
            Finding::blocker(
                reasons::VERSION_PAST_TARGET,
                format!("KubeSphere is {text} by {source}, which is past {target}"),
            )
            .hint("there is no way back by an upgrade; use an installer of that version or a later one"),
        );
    } else if base == target && !version.is_pre_release() {
        findings.push(Finding::info(
            reasons::ALREADY_AT_TARGET,
            format!(
                "KubeSphere is {text} already: what is as it should be is left alone, the rest is repaired"
            ),
        ));
    } else if base != target && !context.upgrade_from.range.contains(base) {
        findings.push(
            Finding::blocker(
                reasons::VERSION_TOO_OLD,
                format!("KubeSphere is {text} by {source}, and {target} is reached from {from} only"),
            )
            .hint(context.upgrade_from.older.clone()),
        );
    } else if base != target && context.install == Install::Only {
        findings.push(
            Finding::blocker(
                reasons::ALREADY_INSTALLED,
                format!("KubeSphere {text} is installed already, by {source}"),
            )
            .hint(format!("bring it to {target} with: ks-installer upgrade")),
        );
    }
    if version.is_pre_release() && base <= target {
        findings.push(
            Finding::warning(
                reasons::PRE_RELEASE,
                format!("KubeSphere is {text}, a build that was never released; it is treated as {base}"),
            )
            .hint("rehearse the upgrade on a copy first"),
        );
    }
    if *source == STATUS {
        findings.extend(check_image(snapshot, version, text, target));
    }
    findings
}

/// The status is written last, so a newer image beside it is what an interrupted upgrade leaves.
fn check_image(
    snapshot: &Snapshot,
    status: &LooseVersion,
    status_text: &str,
    target: &Version,
) -> Option<Finding> {
    let tag = apiserver_tag(snapshot)?;
    let running = LooseVersion::parse(&tag)?;
    if running.base > *target && status.base <= *target {
        return Some(
            Finding::blocker(
                reasons::VERSION_PAST_TARGET,
                format!(
                    "ks-apiserver runs {tag}, which is past {target}, while the status says {status_text}"
                ),
            )
            .hint("there is no way back by an upgrade; use an installer of that version or a later one"),
        );
    }
    (running.base > status.base).then(|| {
        Finding::info(
            reasons::UPGRADE_INTERRUPTED,
            format!("ks-apiserver runs {tag} already while the status says {status_text}: an upgrade was interrupted, and is finished now"),
        )
    })
}

pub(super) fn check_kubernetes(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let text = &snapshot.kubernetes;
    let target = context.target;
    let Some(version) = LooseVersion::parse(text) else {
        let message = format!("the Kubernetes version {text:?} cannot be read");
        return vec![unsupported(
            reasons::KUBERNETES_VERSION_UNREADABLE,
            message,
            context,
        )];
    };
    if context.kubernetes.supported.contains(&version.base) {
        return Vec::new();
    }
    if context
        .kubernetes
        .experimental
        .as_ref()
        .is_some_and(|range| range.contains(&version.base))
    {
        return vec![Finding::warning(
            reasons::KUBERNETES_EXPERIMENTAL,
            format!("Kubernetes {text} is experimental for KubeSphere {target}"),
        )];
    }
    let message = format!(
        "Kubernetes {text} is not supported by KubeSphere {target}, which needs {}",
        context.kubernetes.supported
    );
    vec![unsupported(reasons::KUBERNETES_UNSUPPORTED, message, context)]
}

fn unsupported(reason: &str, message: String, context: &Context<'_>) -> Finding {
    if context.allow_unsupported_kubernetes {
        Finding::warning(reason, format!("{message}; this was explicitly allowed"))
    } else {
        Finding::blocker(reason, message)
            .hint("rehearse the upgrade on a copy; where that is convincing, allow an unsupported Kubernetes explicitly")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};
    use crate::{Severity, Unreadable};

    #[test]
    fn versions_are_read_as_clusters_write_them() {
        let check = |text: &str, expect: Option<(&str, &str)>| {
            let found = LooseVersion::parse(text).map(|v| (v.base.to_string(), v.suffix));
            assert_eq!(
                found.as_ref().map(|(b, s)| (b.as_str(), s.as_str())),
                expect,
                "{text}"
            );
        };
        check("v3.2.1", Some(("v3.2.1", "")));
        check("3.2", Some(("v3.2.0", "")));
        check("v1.22.3-eks-18ef993", Some(("v1.22.3", "-eks-18ef993")));
        check("v1.21.5+k3s1", Some(("v1.21.5", "+k3s1")));
        check("v1.18.20-tke.01", Some(("v1.18.20", "-tke.01")));
        check("1.20+", Some(("v1.20.0", "+")));
        check("latest", None);
        check("nightly-20220301", None);
        check("v3", None);
        check("v3.2.1.4", None);
        check("v3.2.1rc1", None);
        check("", None);
    }

    #[test]
    fn the_way_to_the_target_depends_on_where_one_is() {
        let check = |version: &str, expect: &[(Severity, &str)]| {
            let snapshot = mk_sound_at(version);
            let found = mk_checked(&snapshot, |_| {});
            let found: Vec<_> = found.iter().map(|f| (f.severity, f.reason.as_str())).collect();
            assert_eq!(found, expect, "{version}");
        };
        use Severity::{Blocker, Info, Warning};
        check("v3.2.0", &[]);
        check("v3.2.1", &[]);
        check("v3.3.0", &[]);
        check("v3.3.1", &[(Info, reasons::ALREADY_AT_TARGET)]);
        check("v3.3.2", &[(Blocker, reasons::VERSION_PAST_TARGET)]);
        check("v3.4.0-alpha.1", &[(Blocker, reasons::VERSION_PAST_TARGET)]);
        check("v3.1.1", &[(Blocker, reasons::VERSION_TOO_OLD)]);
        check("v2.1.1", &[(Blocker, reasons::VERSION_TOO_OLD)]);
        check("v3.3.1-rc.1", &[(Warning, reasons::PRE_RELEASE)]);
        check("v3.2.1-dirty", &[(Warning, reasons::PRE_RELEASE)]);
        check("nightly-20220301", &[(Blocker, reasons::VERSION_UNREADABLE)]);
    }

    #[test]
    fn an_older_release_is_told_where_to_go_first() {
        let findings = mk_checked(&mk_sound_at("v3.1.1"), |_| {});
        assert_eq!(findings[0].hint.as_deref(), Some("upgrade to v3.2.1 first"));
    }

    #[test]
    fn without_a_status_the_running_image_counts() {
        let mut snapshot = mk_sound();
        mk_edit(&mut snapshot, &cluster_configuration(), "/status", json!({}));
        assert!(
            matches!(installed(&snapshot), Installed::Version { text, source: IMAGE, .. } if text == "v3.2.1")
        );
        let deployment = ObjectKey::namespaced("apps", "Deployment", SYSTEM_NAMESPACE, "ks-apiserver");
        let check = |image: &str, expect: Option<&str>| {
            let mut snapshot = snapshot.clone();
            mk_edit(
                &mut snapshot,
                &deployment,
                "/spec/template/spec/containers/0/image",
                json!(image),
            );
            let found = match installed(&snapshot) {
                Installed::Version { text, .. } => Some(text),
                _ => None,
            };
            assert_eq!(found.as_deref(), expect);
        };
        check(
            "registry.example.org:5000/kubesphere/ks-apiserver:v3.2.0@sha256:0123",
            Some("v3.2.0"),
        );
        check("registry.example.org:5000/kubesphere/ks-apiserver", None);
        check("kubesphere/ks-apiserver:latest", None);
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_absent() {
        let mut snapshot = mk_sound();
        snapshot.objects.clear();
        snapshot.unreadable.push(Unreadable {
            resource: "clusterconfigurations.installer.kubesphere.io".into(),
            message: "forbidden".into(),
        });
        let findings = mk_checked(&snapshot, |_| {});
        let reasons: Vec<_> = findings.iter().map(|f| f.reason.as_str()).collect();
        assert!(reasons.contains(&reasons::VERSION_UNREADABLE), "{reasons:?}");
        assert!(!reasons.contains(&reasons::NOT_INSTALLED), "{reasons:?}");
    }

    #[test]
    fn a_cluster_without_kubesphere_is_told_so_and_nothing_else() {
        let mut snapshot = mk_sound();
        snapshot.objects.retain(|key, _| {
            key.namespace.as_deref() != Some(SYSTEM_NAMESPACE) && key.kind != "ValidatingWebhookConfiguration"
        });
        let findings = mk_checked(&snapshot, |_| {});
        let reasons: Vec<_> = findings.iter().map(|f| f.reason.as_str()).collect();
        assert_eq!(reasons, [reasons::NOT_INSTALLED]);
    }

    #[test]
    fn an_interrupted_upgrade_goes_on_and_a_newer_one_is_refused() {
        let check = |tag: &str, expect: &[&str]| {
            let mut snapshot = mk_sound();
            let deployment = ObjectKey::namespaced("apps", "Deployment", SYSTEM_NAMESPACE, "ks-apiserver");
            mk_edit(
                &mut snapshot,
                &deployment,
                "/spec/template/spec/containers/0/image",
                json!(format!("kubesphere/ks-apiserver:{tag}")),
            );
            let found = mk_checked(&snapshot, |_| {});
            assert_eq!(
                found.iter().map(|f| f.reason.as_str()).collect::<Vec<_>>(),
                expect
            );
        };
        check("v3.3.1", &[reasons::UPGRADE_INTERRUPTED]);
        check("v3.4.1", &[reasons::VERSION_PAST_TARGET]);
        check("v3.2.1", &[]);
    }

    #[test]
    fn kubernetes_is_judged_by_the_release_s_ranges() {
        let check = |version: &str, allowed: bool, expect: Option<(Severity, &str)>| {
            let mut snapshot = mk_sound();
            snapshot.kubernetes = version.into();
            let found = mk_checked(&snapshot, |context| {
                context.allow_unsupported_kubernetes = allowed;
            });
            assert_eq!(
                found.first().map(|f| (f.severity, f.reason.as_str())),
                expect,
                "{version}"
            );
        };
        use Severity::{Blocker, Warning};
        check("v1.19.16", false, None);
        check("v1.22.3-eks-18ef993", false, None);
        check("v1.21.5+k3s1", false, None);
        check(
            "v1.23.0",
            false,
            Some((Warning, reasons::KUBERNETES_EXPERIMENTAL)),
        );
        check(
            "v1.23.17-gke.100",
            false,
            Some((Warning, reasons::KUBERNETES_EXPERIMENTAL)),
        );
        check(
            "v1.18.20",
            false,
            Some((Blocker, reasons::KUBERNETES_UNSUPPORTED)),
        );
        check("v1.24.1", false, Some((Blocker, reasons::KUBERNETES_UNSUPPORTED)));
        check("v1.24.1", true, Some((Warning, reasons::KUBERNETES_UNSUPPORTED)));
        check("", false, Some((Blocker, reasons::KUBERNETES_VERSION_UNREADABLE)));
    }
}
