//! docs/permissions.md

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{Reason, Rights, Subject, Verbs, rules::sorted};

/// How many names are written out.
const NAMES: usize = 4;

const HEAD: &str = "# Permissions of the installer in the cluster

Made by `cargo xtask generate`; do not edit. What ServiceAccount `ks-installer` in namespace `kubesphere-system` may do
(deploy/kubesphere-installer.yaml), and what needs it. It is computed from the release's manifests, role templates and policy,
from what an upgrade reads, and from the books that a run keeps. What every caller may do anyhow is not listed: asking what the
API server serves (`system:discovery`), and asking what oneself may do (`system:basic-user`).

Nothing is ever written to Pods, Nodes, StorageClasses or objects in users' namespaces but labels of the namespace and custom
roles. A user's own `ks-installer` on a command line works with that user's permissions, not with these.
";

/// The page that lists every right with what needs it.
pub fn document(rights: &Rights) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## What they amount to\n\n");
    text.push_str(
        "Least rights keep mistakes small and tell auditors where to look. They are no wall against somebody who takes over the\n\
         installer, and cannot be, for any installer of KubeSphere:\n\n",
    );
    for (object, role) in bound(rights) {
        let _ = writeln!(
            text,
            "- The release binds {role} ({object}). Who may do that, or start pods as who is bound so, can do what that role can."
        );
    }
    text.push_str(
        "- KubeSphere's permissions are roles of Kubernetes, and custom ones may grant anything. To take a permission out of such\n  \
         a role takes `escalate`, wherever the role is and whatever its name.\n",
    );
    text.push_str(
        "- Secrets are read in the platform's namespaces only, but a rule cannot say \"namespaces whose names begin so\".\n",
    );
    if !rights.wildcards.is_empty() {
        text.push_str(
            "\nRoles of the release that hold wildcards, each with the first of its rules that has one:\n\n",
        );
        for (role, rule) in &rights.wildcards {
            let _ = writeln!(text, "- {role}: {rule}");
        }
    }
    section(
        &mut text,
        "In the whole cluster (ClusterRole `ks-installer`)",
        rights,
        None,
    );
    for namespace in rights.namespaces() {
        let title = format!("In namespace {namespace} (Role `ks-installer`)");
        section(&mut text, &title, rights, Some(namespace));
    }
    text
}

/// Bindings of the release to roles that it does not bring itself.
fn bound(rights: &Rights) -> BTreeSet<(String, String)> {
    let mut found = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (subject, verbs) in rights.iter() {
        for why in verbs.get("bind").into_iter().flatten() {
            for name in subject
                .names
                .iter()
                .filter(|name| name.as_str() == "cluster-admin")
            {
                found.entry(name).or_default().extend(why.object.as_deref());
            }
        }
    }
    found
        .into_iter()
        .map(|(role, bindings)| {
            let bindings: Vec<_> = bindings.into_iter().map(|name| format!("`{name}`")).collect();
            (bindings.join(", "), format!("`{role}`"))
        })
        .collect()
}

fn section(text: &mut String, title: &str, rights: &Rights, namespace: Option<&str>) {
    let _ = write!(
        text,
        "\n## {title}\n\n| resource | verbs | what needs it |\n|---|---|---|\n"
    );
    // What is needed for the same things shares a row.
    let mut rows = Vec::<(Vec<String>, &Verbs)>::new();
    for (subject, verbs) in rights.iter().filter(|(s, _)| s.namespace.as_deref() == namespace) {
        match rows.iter_mut().find(|(_, others)| *others == verbs) {
            Some((names, _)) => names.push(name_of(subject)),
            None => rows.push((vec![name_of(subject)], verbs)),
        }
    }
    for (names, verbs) in rows {
        let held = sorted(verbs.keys()).join(", ");
        let _ = writeln!(text, "| {} | {held} | {} |", names.join(", "), needs(verbs));
    }
}

/// `` `deployments.apps` ``
fn name_of(subject: &Subject) -> String {
    let full = if subject.group.is_empty() {
        subject.resource.clone()
    } else {
        format!("{}.{}", subject.resource, subject.group)
    };
    let names: Vec<_> = subject.names.iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        format!("`{full}`")
    } else {
        format!("`{full}` named {}", names.join(", "))
    }
}

fn needs(verbs: &Verbs) -> String {
    let mut reasons = BTreeMap::<Reason, BTreeSet<&str>>::new();
    for why in verbs.values().flatten() {
        let names = reasons.entry(why.reason).or_default();
        names.extend(why.object.as_deref());
    }
    let words = reasons.into_iter().map(|(reason, names)| {
        let shown: Vec<_> = names.iter().take(NAMES).map(|name| format!("`{name}`")).collect();
        match (shown.is_empty(), names.len().saturating_sub(NAMES)) {
            (true, _) => reason.text().to_owned(),
            (false, 0) => format!("{}: {}", reason.text(), shown.join(", ")),
            (false, more) => format!("{}: {} and {more} more", reason.text(), shown.join(", ")),
        }
    });
    words.collect::<Vec<_>>().join(". ") + "."
}
