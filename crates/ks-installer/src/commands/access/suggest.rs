//! `access impact --suggest`: bindings to think about.

use access::{IAM_GROUP, Migration, USER_REF, WORKSPACE};
use object::Object;
use serde_json::{Value, json};

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
        if suggestion.kind == "User" {
            labels[USER_REF] = suggestion.name.as_str().into();
        }
        if let Some(workspace) = &suggestion.workspace {
            labels[WORKSPACE] = workspace.as_str().into();
        }
        let binding: Value = json!({
            "apiVersion": version,
            "kind": format!("{kind}Binding"),
            "metadata": {"name": name(&format!("{}-{role}", suggestion.name)), "labels": labels},
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

/// A name that Kubernetes takes.
fn name(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let name: String = text
        .to_lowercase()
        .chars()
        .map(|c| if is_plain(c) { c } else { '-' })
        .collect();
    name.trim_matches(['-', '.']).to_owned()
}
