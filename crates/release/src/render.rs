//! [`render`]: from a component and what is known of a cluster to the objects to apply.

use std::collections::BTreeMap;

use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::component::Template;
use crate::{Check, Component, Data, GeneratedSecret, Gone, Release, helm, template};

/// What manifests are rendered from.
///
/// Its `Debug` shows names only, since settings and what exists may hold secrets.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Inputs {
    /// By name, from [`Release::read_settings`].
    pub settings: Map<String, Value>,
    pub cluster: Cluster,
    /// By name, from [`Component::observe`].
    pub existing: Map<String, Value>,
}

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("Inputs")
            .field("settings", &names(&self.settings))
            .field("cluster", &self.cluster)
            .field("existing", &names(&self.existing))
            .finish()
    }
}

/// What manifests depend on of the cluster itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// `v1.20.2`
    pub kubernetes_version: String,
    pub nodes: usize,
    /// Nodes with the master role.
    pub masters: usize,
    /// What most nodes run containers with: `docker`, `containerd` or `crio`; empty where no node says it.
    pub container_runtime: String,
    /// Labels of every namespace, by its name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// When in a component an object is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    Namespaces,
    CustomResourceDefinitions,
    /// ServiceAccounts, roles, bindings.
    Rbac,
    Secrets,
    ConfigMaps,
    /// Services, and whatever else workloads find there when they start.
    Services,
    Workloads,
    CustomResources,
    /// Last, since from then on they judge every write.
    Webhooks,
}

impl Phase {
    fn of(object: &Object) -> Self {
        Self::of_kind(object.group(), object.kind())
    }

    /// The phase of objects of a kind.
    pub fn of_kind(group: &str, kind: &str) -> Self {
        match (group, kind) {
            ("", "Namespace") => Self::Namespaces,
            ("apiextensions.k8s.io", _) => Self::CustomResourceDefinitions,
            ("", "ServiceAccount") | ("rbac.authorization.k8s.io", _) => Self::Rbac,
            ("", "Secret") => Self::Secrets,
            ("", "ConfigMap") => Self::ConfigMaps,
            ("apps" | "batch", _) | ("", "Pod") => Self::Workloads,
            ("admissionregistration.k8s.io", _) => Self::Webhooks,
            (group, _) if group.contains('.') && !group.ends_with(".k8s.io") => Self::CustomResources,
            _ => Self::Services,
        }
    }
}

/// One object of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// May hold references to secrets, see [`crate::secret`].
    pub object: Object,
    /// The file it comes from, below `releases/`.
    pub source: String,
    pub phase: Phase,
    /// Whether the component's Helm release owns it.
    pub in_helm_release: bool,
}

/// A component that cannot be rendered.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenderError {
    #[error("{file}:{line}: {message}")]
    Template {
        file: String,
        line: usize,
        message: String,
    },
    /// The line, where the message has one, is that of the rendered text.
    #[error("{file}: {message}")]
    Manifest { file: String, message: String },
    #[error("{file}: {object} is declared in {other} already")]
    Duplicate {
        file: String,
        other: String,
        object: String,
    },
    #[error("values.{name} of component {component}: {message}")]
    Expression {
        component: String,
        name: String,
        message: String,
    },
    #[error("no value for settings.{name} of component {component}")]
    MissingSetting { component: String, name: String },
}

/// What is wrong, the innermost cause included: a document read by another template has its own file and line.
fn describe(error: &minijinja::Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

fn template_error(component: &Component, error: &minijinja::Error) -> RenderError {
    let name = error.name().unwrap_or_default();
    RenderError::Template {
        file: component
            .templates
            .get(name)
            .map_or_else(|| name.to_owned(), |template| template.source.clone()),
        line: error.line().unwrap_or_default(),
        message: describe(error),
    }
}

/// The variables templates see, with the component's values computed.
fn context(
    env: &minijinja::Environment<'_>,
    release: &Release,
    component: &Component,
    inputs: &Inputs,
) -> Result<minijinja::Value, RenderError> {
    let mut settings = Map::new();
    for name in component.settings.keys().chain(release.settings.keys()) {
        let value = inputs
            .settings
            .get(name)
            .ok_or_else(|| RenderError::MissingSetting {
                component: component.name.clone(),
                name: name.clone(),
            })?;
        settings.insert(name.clone(), value.clone());
    }
    let mut existing = Map::new();
    for name in component.existing.keys() {
        let value = inputs.existing.get(name).cloned().unwrap_or_default();
        existing.insert(name.clone(), value);
    }
    let names: Vec<&str> = release.components.iter().map(|c| c.name.as_str()).collect();
    let mut context = json!({
        "release": {"version": release.version, "components": names},
        "component": {"name": component.name, "namespace": component.namespace},
        "settings": settings,
        "cluster": inputs.cluster,
        "existing": existing,
        "values": {},
    });
    for (name, expression) in &component.values {
        let error = |message: String| RenderError::Expression {
            component: component.name.clone(),
            name: name.clone(),
            message,
        };
        let value = match expression {
            Value::String(text) => env
                .compile_expression(text)
                .and_then(|expression| {
                    expression.eval(minijinja::Value::from(minijinja::value::Serde(&context)))
                })
                .map_err(|e| error(describe(&e)))?,
            other => minijinja::Value::from(minijinja::value::Serde(other)),
        };
        if value.is_undefined() {
            return Err(error("is undefined".into()));
        }
        context["values"][name] = serde_json::to_value(&value).map_err(|e| error(e.to_string()))?;
    }
    Ok(minijinja::Value::from(minijinja::value::Serde(&context)))
}

/// The objects of a component, in apply order.
///
/// # Errors
/// A template, expression or manifest of the release that does not hold for these inputs; file and line are named.
pub fn render(
    release: &Release,
    component: &Component,
    inputs: &Inputs,
) -> Result<Vec<Manifest>, RenderError> {
    let mut env = template::environment(component).map_err(|e| template_error(component, &e))?;
    template::bind(&mut env, release, inputs);
    let context = context(&env, release, component, inputs)?;
    template::bind_documents(&mut env, &context);

    let mut manifests: Vec<Manifest> = Vec::new();
    let mut declared: BTreeMap<ObjectKey, String> = BTreeMap::new();
    for (path, file) in &component.templates {
        if path.starts_with("documents/") {
            continue;
        }
        let made = if let Some(made) = fixed(component, path, file) {
            made.clone()
        } else {
            let text = env
                .get_template(path)
                .and_then(|template| template.render(context.clone()))
                .map_err(|e| template_error(component, &e))?;
            read(component, path, &file.source, &text)
        };
        for manifest in made? {
            let key = manifest.object.key();
            if let Some(other) = declared.insert(key.clone(), file.source.clone()) {
                return Err(RenderError::Duplicate {
                    file: file.source.clone(),
                    other,
                    object: key.to_string(),
                });
            }
            manifests.push(manifest);
        }
    }
    // Stable: inside a phase, objects stay in the order of their files.
    manifests.sort_by_key(|manifest| manifest.phase);
    Ok(manifests)
}

/// What is in a file that depends on nothing; `None` for all others.
pub(crate) fn fixed<'a>(
    component: &Component,
    path: &str,
    file: &'a Template,
) -> Option<&'a Result<Vec<Manifest>, RenderError>> {
    let read = || read(component, path, &file.source, &file.text);
    file.is_fixed.then(|| file.made.get_or_init(read))
}

/// The manifests in the text of a component's file.
fn read(component: &Component, path: &str, source: &str, text: &str) -> Result<Vec<Manifest>, RenderError> {
    let wrong = |message: String| RenderError::Manifest {
        file: source.to_owned(),
        message,
    };
    let in_helm_release = component.helm.as_ref().is_some_and(|helm| {
        let mut without = helm.without.iter();
        !without.any(|w| path == w || (w.ends_with('/') && path.starts_with(w.as_str())))
    });
    let mut manifests = Vec::new();
    for document in object::parse_documents(text).map_err(wrong)? {
        let object = Object::try_from(document).map_err(|e| wrong(e.to_string()))?;
        let phase = match Phase::of(&object) {
            Phase::CustomResources if component.early.iter().any(|kind| kind == object.kind()) => {
                Phase::Services
            }
            phase => phase,
        };
        let mut manifest = Manifest {
            phase,
            object,
            source: source.to_owned(),
            in_helm_release,
        };
        finish(&mut manifest, component);
        if manifest.phase != Phase::CustomResourceDefinitions {
            manifest.object.as_map_mut().values_mut().for_each(quantities);
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// Makes texts of numbers where quantities stand: people write `cpu: 1`, and server-side apply wants texts.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::Object(amounts) if ["limits", "requests", "hard"].contains(&name.as_str()) => {
                        for amount in amounts.values_mut().filter(|amount| amount.is_number()) {
                            *amount = amount.to_string().into();
                        }
                    }
                    value => quantities(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}

/// Fills in what every manifest has: its namespace, and the marks by which Helm knows what it owns.
fn finish(manifest: &mut Manifest, component: &Component) {
    let namespaced = helm::is_namespaced(manifest.object.group(), manifest.object.kind());
    let namespace =
        (namespaced && manifest.object.namespace().is_none()).then(|| component.namespace.clone());
    let marks = component.helm.as_ref().filter(|_| manifest.in_helm_release);
    let Some(metadata) = manifest
        .object
        .as_map_mut()
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if let Some(namespace) = namespace {
        metadata.insert("namespace".into(), namespace.into());
    }
    if let Some(helm) = marks {
        metadata.entry("labels").or_insert_with(|| json!({}))["app.kubernetes.io/managed-by"] = "Helm".into();
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations["meta.helm.sh/release-name"] = helm.name.clone().into();
        annotations["meta.helm.sh/release-namespace"] = helm.namespace.clone().into();
    }
}

impl Component {
    /// Whether these settings ask for the component.
    ///
    /// # Errors
    /// The expression does not hold.
    pub fn is_enabled(&self, release: &Release, inputs: &Inputs) -> Result<bool, RenderError> {
        let Some(expression) = &self.enabled else {
            return Ok(true);
        };
        self.holds(release, inputs, "enabled", expression)
    }

    /// The checks that fail.
    ///
    /// # Errors
    /// An expression does not hold.
    pub fn failed_checks(&self, release: &Release, inputs: &Inputs) -> Result<Vec<&Check>, RenderError> {
        let mut failed = Vec::new();
        for check in &self.checks {
            if !self.holds(release, inputs, &check.reason, &check.holds)? {
                failed.push(check);
            }
        }
        Ok(failed)
    }

    /// What earlier releases had of it and these inputs have no use for.
    ///
    /// # Errors
    /// An expression does not hold.
    pub fn gone(&self, release: &Release, inputs: &Inputs) -> Result<Vec<&Gone>, RenderError> {
        self.those(release, inputs, &self.gone, |gone| {
            (&gone.name, gone.when.as_ref())
        })
    }

    /// What its programs made, and nobody else's.
    ///
    /// # Errors
    /// An expression does not hold.
    pub fn leaves(&self, release: &Release, inputs: &Inputs) -> Result<Vec<&Gone>, RenderError> {
        self.those(release, inputs, &self.leaves, |gone| {
            (&gone.name, gone.when.as_ref())
        })
    }

    /// What holds its data, and nobody else's.
    ///
    /// # Errors
    /// An expression does not hold.
    pub fn data(&self, release: &Release, inputs: &Inputs) -> Result<Vec<&Data>, RenderError> {
        self.those(release, inputs, &self.data, |data| {
            (&data.about, data.when.as_ref())
        })
    }

    /// What of a list these inputs do not rule out. `condition` gives an item's name, for errors, and when it counts.
    fn those<'c, T>(
        &self,
        release: &Release,
        inputs: &Inputs,
        list: &'c [T],
        condition: impl Fn(&'c T) -> (&'c String, Option<&'c String>),
    ) -> Result<Vec<&'c T>, RenderError> {
        let mut those = Vec::new();
        for item in list {
            let (name, when) = condition(item);
            let counts = match when {
                Some(when) => self.holds(release, inputs, &format!("when.{name}"), when)?,
                None => true,
            };
            if counts {
                those.push(item);
            }
        }
        Ok(those)
    }

    fn holds(
        &self,
        release: &Release,
        inputs: &Inputs,
        name: &str,
        expression: &str,
    ) -> Result<bool, RenderError> {
        let env = template::expressions().map_err(|e| template_error(self, &e))?;
        let context = context(&env, release, self, inputs)?;
        env.compile_expression(expression)
            .and_then(|expression| expression.eval(context))
            .map(|value| value.is_true())
            .map_err(|e| RenderError::Expression {
                component: self.name.clone(),
                name: name.to_owned(),
                message: describe(&e),
            })
    }

    /// The Secrets to be made where they do not exist, without the keys and certificates that these inputs rule out.
    pub fn generated_secrets(
        &self,
        release: &Release,
        inputs: &Inputs,
    ) -> Result<Vec<GeneratedSecret>, RenderError> {
        let env = template::expressions().map_err(|e| template_error(self, &e))?;
        let context = context(&env, release, self, inputs)?;
        let wanted = |name: &str, when: Option<&String>| match when {
            None => Ok(true),
            Some(when) => env
                .compile_expression(when)
                .and_then(|expression| expression.eval(context.clone()))
                .map(|value| value.is_true())
                .map_err(|e| RenderError::Expression {
                    component: self.name.clone(),
                    name: name.to_owned(),
                    message: describe(&e),
                }),
        };
        let mut secrets = self.secrets.clone();
        for secret in &mut secrets {
            let mut keys = Vec::new();
            for key in secret.keys.drain(..) {
                if wanted(&key.name, key.when.as_ref())? {
                    keys.push(key);
                }
            }
            secret.keys = keys;
            if let Some(certificate) = &secret.certificate
                && !wanted(&certificate.certificate_key, certificate.when.as_ref())?
            {
                secret.certificate = None;
            }
        }
        // Nothing left to make is nothing to look after.
        secrets.retain(|secret| !secret.keys.is_empty() || secret.certificate.is_some());
        Ok(secrets)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::{Files, Releases};

    use super::*;

    fn mk(component: &str, files: &[(&str, &str)]) -> Release {
        let release = "version: v1.0.0\nupgradeFrom: {range: '*', older: ''}\nkubernetes: {supported: '*'}\n\
            images: {a: {repository: a}}\ncomponents: [c]\n";
        let files: Files = files
            .iter()
            .map(|(path, text)| (format!("v1/components/c/{path}"), *text))
            .chain([
                ("v1/release.yaml".to_owned(), release),
                ("v1/components/c/component.yaml".to_owned(), component),
            ])
            .collect();
        Releases::load(&files).unwrap().latest().unwrap().clone()
    }

    fn inputs(settings: Value) -> Inputs {
        Inputs {
            settings: settings.as_object().cloned().unwrap_or_default(),
            ..Inputs::default()
        }
    }

    const SETTING: &str = "namespace: ns\nsettings: {x: {from: x, type: string}}\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], settings: Value, expect: Result<Value, &str>) {
        let release = mk(SETTING, files);
        let rendered = render(&release, &release.components[0], &inputs(settings)).map(|manifests| {
            manifests
                .into_iter()
                .map(|m| m.object.into_value())
                .collect::<Value>()
        });
        match (rendered, expect) {
            (Err(error), Err(message)) => assert!(error.to_string().starts_with(message), "{error}"),
            (rendered, expect) => {
                assert_eq!(rendered.map_err(|e| e.to_string()), expect.map_err(str::to_owned));
            }
        }
    }

    fn config(data: &str) -> String {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {data}\n")
    }

    #[test]
    fn values_come_out_as_json_and_cannot_break_out() {
        let text = "a: b\n- \"'{{ x }}{% if %}";
        let object = |data: Value| json!([{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"ns"},"data":data}]);
        check(
            &[("a.yaml", &config("{{ settings.x }}"))],
            json!({"x": {"k": text, "n": 1, "b": true, "l": [null]}}),
            Ok(object(json!({"k": text, "n": 1, "b": true, "l": [null]}))),
        );
        check(
            &[
                ("a.yaml", &config("{d: {{ document('d.yaml') | to_yaml }}}")),
                ("documents/d.yaml", "a: {{ settings.x }}"),
            ],
            json!({"x": "0123"}),
            Ok(object(json!({"d": "a: \"0123\"\n"}))),
        );
    }

    #[test]
    fn a_digest_changes_with_the_value() {
        let digest = |value: Value| {
            let release = mk(SETTING, &[("a.yaml", &config("{d: {{ settings.x | digest }}}"))]);
            let manifests = render(&release, &release.components[0], &inputs(json!({ "x": value }))).unwrap();
            manifests[0].object.get_str("/data/d").unwrap().to_owned()
        };
        assert_eq!(digest(json!("a")), "ac8d8342bb");
        assert_eq!(digest(json!({"k": [1, true]})).len(), 10);
        assert_ne!(digest(json!(1)), digest(json!("1")));
    }

    #[test]
    fn quantities_are_texts() {
        let mut value = json!({"spec": {"replicas": 1, "containers": [
            {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": 0.5}}}]}});
        quantities(&mut value);
        let expect = json!({"spec": {"replicas": 1, "containers": [
            {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5"}}}]}});
        assert_eq!(value, expect);
    }

    #[test]
    fn an_empty_document_is_no_object() {
        check(
            &[("a.yaml", "# nothing\n{% if settings.x %}a: b{% endif %}\n---\n")],
            json!({"x": null}),
            Ok(json!([])),
        );
    }

    #[test]
    fn errors_name_file_and_line() {
        let x = json!({"x": "1"});
        let file = "v1/components/c/a.yaml";
        let at = |rest: &str| format!("{file}{rest}");
        check(
            &[("a.yaml", "a: 1\nb: {{ settings.y }}")],
            x.clone(),
            Err(&at(":2: undefined value")),
        );
        check(
            &[("a.yaml", "a: 1\n\nb: {{ image('b') }}")],
            x.clone(),
            Err(&at(":3: invalid operation: the release has no image \"b\"")),
        );
        check(&[("a.yaml", "{% if %}")], x.clone(), Err(&at(":1: syntax error")));
        check(&[("a.yaml", "a: [")], x.clone(), Err(&at(": ")));
        check(
            &[("a.yaml", "apiVersion: v1\nmetadata: {name: a}")],
            x.clone(),
            Err(&at(": kind is missing")),
        );
        check(
            &[("a.yaml", &config("{}"))],
            Value::Null,
            Err("no value for settings.x of component c"),
        );
        check(
            &[("a.yaml", &config("{}")), ("b.yaml", &config("{}"))],
            x.clone(),
            Err("v1/components/c/b.yaml: ConfigMap ns/a is declared in v1/components/c/a.yaml already"),
        );
        check(
            &[
                ("a.yaml", &config("{{ document('d.yaml') }}")),
                ("documents/d.yaml", "a: 1\n---\nb: 1"),
            ],
            x,
            Err(&at(
                ":4: invalid operation: documents/d.yaml does not hold one document",
            )),
        );
    }

    #[test]
    fn objects_come_in_apply_order() {
        let kinds = |manifests: Vec<Manifest>| {
            manifests
                .iter()
                .map(|m| m.object.kind().to_owned())
                .collect::<Vec<_>>()
        };
        let mut text = String::new();
        for (api, kind) in [
            (
                "admissionregistration.k8s.io/v1",
                "ValidatingWebhookConfiguration",
            ),
            ("iam.kubesphere.io/v1alpha2", "User"),
            ("apps/v1", "Deployment"),
            ("v1", "Service"),
            ("v1", "ConfigMap"),
            ("v1", "Secret"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("v1", "ServiceAccount"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("v1", "Namespace"),
        ] {
            writeln!(
                text,
                "---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}"
            )
            .unwrap();
        }
        let release = mk("namespace: ns\n", &[("a.yaml", &text)]);
        let manifests = render(&release, &release.components[0], &inputs(Value::Null)).unwrap();
        assert_eq!(
            kinds(manifests),
            [
                "Namespace",
                "CustomResourceDefinition",
                "Role",
                "ServiceAccount",
                "Secret",
                "ConfigMap",
                "Service",
                "Deployment",
                "User",
                "ValidatingWebhookConfiguration",
            ]
        );
    }
}
