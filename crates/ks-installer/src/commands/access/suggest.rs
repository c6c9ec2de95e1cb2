//! `access impact --suggest`: bindings to think about.

use std::collections::BTreeSet;

use access::{IAM_GROUP, Migration, USER_REF, WORKSPACE};
use object::Object;
use serde_json::{Value, json};
use upgrade::plan::digest_value;

/// The suggestions as YAML that kubectl takes, each with its reason. Nothing of it is applied.
pub(super) fn yaml<'a>(migration: &Migration, released: impl Iterator<Item = &'a Object>) -> String {
    let mut out = String::from(
        "# Bindings that would give back, within the new release's model, what people lose by the upgrade.\n\
         # Look at each before applying it, after the upgrade: kubectl apply -f FILE\n",
    );
    // Written as the release writes its own.
    let version = released
        .map(Object::api_version)
        .find(|version| version.starts_with(IAM_GROUP))
        .unwrap_or(IAM_GROUP)
        .to_owned();
    if migration.suggestions.is_empty() {
        out.push_str("# Nobody loses workspace or user management: there is nothing to suggest.\n");
    }
    let mut used = BTreeSet::new();
    for suggestion in &migration.suggestions {
        let who = format!("{} {}", suggestion.kind, suggestion.name);
        let Some(role) = &suggestion.role else {
            out.push_str(&format!(
                "\n# {}: {}. No role of the new release gives just that.\n",
                comment(&who),
                comment(&suggestion.why)
            ));
            continue;
        };
        let kind = if suggestion.workspace.is_some() {
            "WorkspaceRole"
        } else {
            "GlobalRole"
        };
        let mut labels = json!({});
        if suggestion.kind == "User" && is_label_value(&suggestion.name) {
            labels[USER_REF] = suggestion.name.as_str().into();
        }
        if let Some(workspace) = &suggestion.workspace {
            labels[WORKSPACE] = workspace.as_str().into();
        }
        let binding: Value = json!({
            "apiVersion": version,
            "kind": format!("{kind}Binding"),
            "metadata": {"name": name(&suggestion.kind, &suggestion.name, role, &mut used), "labels": labels},
            "roleRef": {"apiGroup": version, "kind": kind, "name": role},
            "subjects": [{"apiGroup": version, "kind": suggestion.kind, "name": suggestion.name}],
        });
        out.push_str(&format!(
            "---\n# {}: {}\n",
            comment(&who),
            comment(&suggestion.why)
        ));
        out.push_str(&release::to_yaml(&binding));
    }
    out
}

/// One line, whatever is in a name.
fn comment(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What the binding of a subject to a role is called. A plain user's as KubeSphere calls it; what had to be spelled
/// otherwise, and groups, get a digest, so that no two subjects share a name and one binding replaces another.
fn name(kind: &str, subject: &str, role: &str, used: &mut BTreeSet<String>) -> String {
    let name = format!("{subject}-{role}");
    if kind == "User" && is_name(&name) && used.insert(name.clone()) {
        return name;
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let prefix = if kind == "User" {
        String::new()
    } else {
        format!("{kind}-")
    };
    let name: String = format!("{prefix}{name}")
        .to_lowercase()
        .chars()
        .map(plain)
        .collect();
    let name: String = name.trim_matches('-').chars().take(LONGEST_SPELLED).collect();
    let digest = digest_value(&json!([kind, subject, role]));
    let name = format!("{name}-{}", &digest[..8]);
    used.insert(name.clone());
    name
}

/// How long a name may be before its digest; with it, it is still one that Kubernetes takes.
const LONGEST_SPELLED: usize = 240;

/// Whether Kubernetes takes a name as it is (a DNS subdomain, RFC 1123).
fn is_name(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Whether a label can have this value.
fn is_label_value(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(is_plain)
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_subjects_share_a_name() {
        let mut used = BTreeSet::new();
        let mut name = |kind: &str, subject: &str| name(kind, subject, "w-admin", &mut used);
        // As KubeSphere calls them.
        assert_eq!(name("User", "team"), "team-w-admin");
        assert_eq!(name("User", "bob-x"), "bob-x-w-admin");
        assert_eq!(name("User", "a.b"), "a.b-w-admin");
        // The rest is spelled otherwise, and told apart.
        let check = |name: &str, start: &str| {
            let digest = name
                .strip_prefix(start)
                .unwrap_or_else(|| panic!("{name} does not begin with {start}"));
            assert!(digest.len() == 8 && is_name(name), "{name}");
        };
        check(&name("Group", "team"), "group-team-w-admin-");
        check(&name("User", "bob@x"), "bob-x-w-admin-");
        check(&name("User", "Team"), "team-w-admin-");
        check(&name("User", "a."), "a--w-admin-");
        check(&name("User", "用户"), "w-admin-");
        let (first, second) = (name("User", "jürgen"), name("User", "järgen"));
        check(&first, "j-rgen-w-admin-");
        check(&second, "j-rgen-w-admin-");
        assert_ne!(first, second);
        assert!(is_name(&name("User", &"ü".repeat(300))));
        assert!(is_name(&name("User", &"u".repeat(300))));
    }

    #[test]
    fn a_name_that_is_taken_gets_a_digest() {
        let mut used = BTreeSet::new();
        assert_eq!(name("User", "bob", "x-y-admin", &mut used), "bob-x-y-admin");
        let other = name("User", "bob-x", "y-admin", &mut used);
        assert!(other.starts_with("bob-x-y-admin-"), "{other}");
        // The same wherever it is asked, and whatever else there is.
        let alone = name("Group", "g", "r", &mut BTreeSet::new());
        assert_eq!(name("Group", "g", "r", &mut used), alone);
    }

    #[test]
    fn labels_have_values_that_kubernetes_takes() {
        for text in ["bob", "Bob_1", "a.b-c"] {
            assert!(is_label_value(text), "{text}");
        }
        for text in ["", "bob@x", "jürgen", "-bob", "bob.", &"b".repeat(64)] {
            assert!(!is_label_value(text), "{text}");
        }
    }
}
