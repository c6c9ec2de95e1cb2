//! [`lint`]: mistakes in release data that rendering one set of inputs would not show.

use std::collections::BTreeSet;

use crate::{Component, Release, template};

/// What the release's own code reads, so that no template has to.
const READ_BY_CODE: [&str; 4] = ["localRegistry", "zone", "namespaceOverride", "devTag"];

/// Settings, values and observations that are declared but used nowhere, or used but not declared. Empty: none.
pub fn lint(release: &Release) -> Vec<String> {
    release
        .components
        .iter()
        .flat_map(|component| lint_component(release, component))
        .collect()
}

fn lint_component(release: &Release, component: &Component) -> Vec<String> {
    let env = match template::environment(component) {
        Ok(env) => env,
        Err(error) => return vec![format!("{}: {error}", component.name)],
    };
    let mut problems = Vec::new();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (name, template) in env.templates() {
        for variable in template.undeclared_variables(true) {
            used.insert((name.to_owned(), variable));
        }
    }
    let expressions = component
        .values
        .iter()
        .filter_map(|(name, value)| Some((format!("values.{name}"), value.as_str()?)))
        .chain(component.secrets.iter().flat_map(|secret| {
            secret
                .keys
                .iter()
                .filter_map(|key| Some((format!("secrets.{}", key.name), key.when.as_deref()?)))
        }));
    for (name, text) in expressions {
        match env.compile_expression(text) {
            Ok(expression) => {
                let variables = expression.undeclared_variables(true);
                used.extend(variables.into_iter().map(|variable| (name.clone(), variable)));
            }
            Err(error) => problems.push(format!("{}: {name}: {error}", component.name)),
        }
    }

    let declared: BTreeSet<String> = component
        .settings
        .keys()
        .chain(release.settings.keys())
        .map(|name| format!("settings.{name}"))
        .chain(component.existing.keys().map(|name| format!("existing.{name}")))
        .chain(component.values.keys().map(|name| format!("values.{name}")))
        .collect();
    // `settings.a.b` uses the setting `a`.
    let root = |variable: &str| variable.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    for (place, variable) in &used {
        let root = root(variable);
        let ours = ["settings.", "existing.", "values."];
        if ours.iter().any(|prefix| root.starts_with(prefix)) && !declared.contains(&root) {
            problems.push(format!(
                "{}: {place} uses {root}, which is not declared",
                component.name
            ));
        }
    }
    let used: BTreeSet<String> = used.iter().map(|(_, variable)| root(variable)).collect();
    for name in &declared {
        let by_code = name
            .strip_prefix("settings.")
            .is_some_and(|name| READ_BY_CODE.contains(&name));
        if !used.contains(name) && !by_code {
            problems.push(format!("{}: {name} is declared but used nowhere", component.name));
        }
    }
    problems
}
