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
            let certificate = secret.certificate.iter();
            secret
                .keys
                .iter()
                .map(|key| (&key.name, &key.when))
                .chain(certificate.map(|pair| (&pair.certificate_key, &pair.when)))
                .filter_map(|(name, when)| Some((format!("secrets.{name}"), when.as_deref()?)))
        }))
        .chain(
            component
                .enabled
                .iter()
                .map(|text| ("enabled".to_owned(), text.as_str())),
        )
        .chain(
            component
                .checks
                .iter()
                .map(|check| (format!("checks.{}", check.reason), check.holds.as_str())),
        )
        .chain(
            component
                .gone
                .iter()
                .chain(&component.leaves)
                .map(|gone| (&gone.name, &gone.when))
                .chain(component.data.iter().map(|data| (&data.about, &data.when)))
                .filter_map(|(name, when)| Some((format!("when.{name}"), when.as_deref()?))),
        );
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

#[cfg(test)]
mod tests {
    use crate::{Files, Releases};

    use super::*;

    #[track_caller]
    fn check(component: &str, manifest: &str, expect: &[&str]) {
        let release = "version: v1.0.0\nupgradeFrom: {range: '*', older: ''}\nkubernetes: {supported: '*'}\n\
            settings: {zone: {from: zone, type: string}}\ncomponents: [c]\n";
        let files: Files = [
            ("v1/release.yaml", release),
            ("v1/components/c/component.yaml", component),
            ("v1/components/c/a.yaml", manifest),
        ]
        .into_iter()
        .collect();
        let releases = Releases::load(&files).unwrap();
        assert_eq!(lint(releases.latest().unwrap()), expect);
    }

    #[test]
    fn what_is_declared_is_used_and_what_is_used_is_declared() {
        let setting = "namespace: ns\nsettings: {port: {from: port, type: integer}}\n";
        check(setting, "a: {{ settings.port }}", &[]);
        check(
            setting,
            "{% if values %}{% endif %}",
            &["c: settings.port is declared but used nowhere"],
        );
        check(
            setting,
            "a: {{ settings.port }}\nb: {% if false %}{{ settings.prot.x }}{% endif %}",
            &["c: a.yaml uses settings.prot, which is not declared"],
        );
        check(
            "namespace: ns\nvalues: {double: settings.port * 2, half: '1'}\n",
            "a: {{ values.double }}",
            &[
                "c: values.double uses settings.port, which is not declared",
                "c: values.half is declared but used nowhere",
            ],
        );
        check(
            "namespace: ns\nenabled: settings.wanted\nsettings: {wanted: {from: wanted, type: boolean}}\n\
             checks: [{reason: Missing, holds: values.there, message: m, hint: h}]\n",
            "{}",
            &["c: checks.Missing uses values.there, which is not declared"],
        );
        check(
            "namespace: ns\nvalues: {odd: '1 +'}\n",
            "a: {{ values.odd }}",
            &[
                "c: values.odd: syntax error: unexpected end of input, expected expression (in <expression>:1)",
            ],
        );
    }
}
