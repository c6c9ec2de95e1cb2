//! [`Component`]: a folder of manifests with what it reads, adopts, makes and waits for.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::Text;
use crate::setting::{Setting, at};
use crate::{Manifest, Phase, RenderError, not_after};

/// One component of a release, as its folder describes it.
#[derive(Clone, Debug)]
pub struct Component {
    pub name: String,
    /// Where its namespaced objects live that name no namespace.
    pub namespace: String,
    /// In a few words, for lists of components.
    pub about: String,
    /// A Jinja expression over settings, cluster and existing: whether the settings ask for it. Absent: always.
    pub enabled: Option<String>,
    /// Where in the ClusterConfiguration people switch it; none where it is there always, or drawn in by others.
    pub switch: Option<Switch>,
    /// Components that must be in place before it, and that it cannot do without.
    pub needs: Vec<String>,
    /// Components that are in place before it where they are enabled.
    pub after: Vec<String>,
    /// Its key in the ClusterConfiguration's status, `network.topology`; none where there is none.
    pub status: Option<String>,
    /// What must hold before it is installed.
    pub checks: Vec<Check>,
    /// What holds data and stays when the component goes.
    pub data: Vec<Data>,
    /// What earlier releases had of it and this one has not, besides what Helm's records tell.
    pub gone: Vec<Gone>,
    /// What its programs make outside of their own objects: it goes when the component is switched off.
    pub leaves: Vec<Gone>,
    /// Labels of objects that people made, which must change with the component.
    pub relabel: Vec<Relabel>,
    /// Custom resources that its workloads need in order to start: they are applied before these.
    pub early: Vec<String>,
    /// By name, as templates use them: `settings.NAME`.
    pub settings: BTreeMap<String, Setting>,
    /// What it wants to know of the cluster, by name: `existing.NAME`.
    pub existing: BTreeMap<String, Observation>,
    /// Jinja expressions by name, in order; templates use their results: `values.NAME`.
    pub values: Map<String, Value>,
    pub helm: Option<HelmRelease>,
    pub health: Health,
    /// What its Jobs would do that a rehearsal does not play, in a sentence.
    pub rehearsal: Option<String>,
    pub secrets: Vec<GeneratedSecret>,
    /// Path inside the component's folder → template.
    pub(crate) templates: BTreeMap<String, Template>,
}

#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Path below `releases/`, for messages.
    pub source: String,
    pub text: Text,
    /// Whether what it holds depends on nothing.
    pub is_fixed: bool,
    /// What that is then, read once, however often it is rendered.
    pub made: Arc<OnceLock<Result<Vec<Manifest>, RenderError>>>,
}

impl Template {
    pub(crate) fn new(source: String, text: Text) -> Self {
        Self {
            source,
            is_fixed: !object::has_jinja(&text),
            text,
            made: Arc::default(),
        }
    }
}

/// `component.yaml`, joined with those of the folders that it names under `from`. Files of these folders are the
/// component's too, unless its own folder has one of the same name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ComponentFile {
    pub namespace: String,
    #[serde(default)]
    pub about: String,
    #[serde(default)]
    pub enabled: Option<String>,
    #[serde(default)]
    pub switch: Option<Switch>,
    #[serde(default)]
    pub needs: Vec<String>,
    #[serde(default)]
    pub after: Vec<String>,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub checks: Vec<Check>,
    #[serde(default)]
    pub data: Vec<Data>,
    #[serde(default)]
    pub gone: Vec<Gone>,
    #[serde(default)]
    pub leaves: Vec<Gone>,
    #[serde(default)]
    pub relabel: Vec<Relabel>,
    #[serde(default)]
    pub early: Vec<String>,
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    #[serde(default)]
    pub existing: BTreeMap<String, Observation>,
    #[serde(default)]
    pub values: Map<String, Value>,
    #[serde(default)]
    pub helm: Option<HelmRelease>,
    #[serde(default)]
    pub health: Health,
    #[serde(default)]
    pub rehearsal: Option<String>,
    #[serde(default)]
    pub secrets: Vec<GeneratedSecret>,
}

/// Where a component is switched on and off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switch {
    /// `logging.enabled`, `network.ippool.type`; several where all of them must be set.
    pub paths: Vec<String>,
    #[serde(default = "yes")]
    pub on: Value,
    #[serde(default = "no")]
    pub off: Value,
}

fn yes() -> Value {
    true.into()
}

fn no() -> Value {
    false.into()
}

/// Something that must hold before a component is installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// PascalCase and stable: `EtcdSecretMissing`.
    pub reason: String,
    /// A Jinja expression; the check fails where it is false.
    pub holds: String,
    /// Only a warning: the component is installed all the same.
    #[serde(default)]
    pub warning: bool,
    /// The check counts only before a first installation.
    #[serde(default)]
    pub first: bool,
    /// Looked at while the component is off, too, and then worth knowing: it says what is there in its place.
    #[serde(default)]
    pub always: bool,
    pub message: String,
    pub hint: String,
}

/// Objects that hold data: they stay when their component goes, and are listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Data {
    #[serde(default)]
    pub group: String,
    /// `PersistentVolumeClaim`, or the kind of custom resources that people write.
    pub kind: String,
    #[serde(default)]
    pub namespace: Option<String>,
    /// One object, or several ([`is_named`]). Absent: all of the kind but those that the component itself brings.
    #[serde(default)]
    pub name: Option<String>,
    /// A Jinja expression; it is somebody else's where that is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// In a few words: `logs of the last days`.
    pub about: String,
}

/// An object that earlier releases had and this one has not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gone {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    #[serde(default)]
    pub namespace: Option<String>,
    /// One object, or several ([`is_named`]) that the component does not render.
    pub name: String,
    /// A Jinja expression; it stays where that is false.
    #[serde(default)]
    pub when: Option<String>,
    /// Finalizers whose controller goes as well, so that nobody would take them away.
    #[serde(default)]
    pub finalizers: Vec<String>,
}

impl Data {
    /// Whether that is among it.
    pub fn is(&self, key: &ObjectKey) -> bool {
        let named = self.name.as_ref().is_none_or(|name| is_named(name, &key.name));
        key.is(&self.group, &self.kind)
            && (self.namespace.is_none() || key.namespace == self.namespace)
            && named
    }
}

impl Gone {
    /// Whether that is the object meant.
    pub fn is(&self, key: &ObjectKey) -> bool {
        key.is(&self.group, &self.kind) && key.namespace == self.namespace && is_named(&self.name, &key.name)
    }
}

/// Whether an object is meant by a name in which one `*` may stand for anything.
pub fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => name == pattern,
    }
}

/// Objects that people made and that a component knows by their labels, where they do not have those that it looks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relabel {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    /// JSON pointer of what else must be there, and neither null, nor zero, nor empty.
    #[serde(default)]
    pub has: Option<String>,
    /// All of them must be there.
    #[serde(default)]
    pub from: BTreeMap<String, String>,
    /// What they become; labels that are in neither stay.
    pub to: BTreeMap<String, String>,
}

/// Something of the cluster that manifests depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// Where its name has a `*` ([`is_named`]), templates see the names of all that are meant: those in its namespace, or
    /// in any that is read where it has none.
    pub object: ObjectKey,
    /// JSON pointer of the value; absent: whether the object exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The value is a text that holds a YAML document; templates see the document.
    #[serde(default)]
    pub document: bool,
}

/// The Helm release whose objects the component takes over, and as whose further revision it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HelmRelease {
    pub name: String,
    pub namespace: String,
    pub chart: Chart,
    /// Files and folders (with a slash at the end) whose objects are not part of the Helm release.
    #[serde(default)]
    pub without: Vec<String>,
    /// Helm releases in the same namespace that earlier releases had in its place: their objects are taken over, or go.
    #[serde(default)]
    pub replaces: Vec<String>,
}

/// The chart as Helm's record names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Chart {
    pub name: String,
    pub version: String,
    pub app_version: String,
}

/// When the component counts as running.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// How long to wait for all of it, in seconds; 0: the installer's default.
    #[serde(default)]
    pub deadline_seconds: u64,
    /// Workloads that are looked at but not waited for.
    #[serde(default)]
    pub optional: Vec<ObjectKey>,
    /// Workloads that its operators make: looked at, and waited for where they are there.
    #[serde(default)]
    pub made: Vec<ObjectKey>,
}

/// What must be seen well before a component counts as running.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Deployments, StatefulSets, DaemonSets, Jobs that must have rolled out.
    pub workloads: Vec<ObjectKey>,
    /// CRDs that must be established.
    pub custom_resource_definitions: Vec<ObjectKey>,
    /// Services behind webhooks that must have an endpoint.
    pub webhook_services: Vec<ObjectKey>,
}

/// A Secret that is made by who carries out the plan: keys that exist are kept, keys that do not are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GeneratedSecret {
    pub namespace: String,
    pub name: String,
    /// In order: a key may be derived from one before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<GeneratedKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

/// One key of a [`GeneratedSecret`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GeneratedKey {
    pub name: String,
    /// A path in the ClusterConfiguration's spec: a text there is the value, now and whenever it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    pub make: Recipe,
    /// A Jinja expression; the key is left alone where it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// How a key's value is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Recipe {
    /// ASCII letters and digits, at least one lower-case letter, one upper-case letter and one digit among them.
    Alphanumeric { length: usize },
    /// A JSON web token (HS256; header `{"alg":"HS256","typ":"JWT"}`, claims in the order given, compact), signed with
    /// the text of another key of the same Secret. Made anew when that key changes.
    #[serde(rename_all = "camelCase")]
    Jwt {
        signed_with: String,
        claims: Map<String, Value>,
    },
}

/// A certificate signed by an authority made for it. All three keys are made together, when one of them is missing or the
/// certificate is about to end; a pair that is there is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificate {
    /// A Jinja expression; no pair is made where it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    pub authority_common_name: String,
    pub common_name: String,
    pub dns_names: Vec<String>,
    pub days: u32,
    /// Keys of the Secret, PEM each.
    pub authority_key: String,
    pub certificate_key: String,
    pub private_key: String,
}

/// How long before its end a certificate is made anew, in seconds: a month.
const RENEWED_BEFORE: i64 = 30 * 24 * 60 * 60;

impl GeneratedSecret {
    pub fn key(&self) -> ObjectKey {
        ObjectKey::namespaced("", "Secret", &self.namespace, &self.name)
    }

    /// The keys that have to be written, given the Secret as it is (`None`: it does not exist) and the
    /// ClusterConfiguration's spec. `now`, in Unix seconds, tells whether a certificate has expired, or will within a month.
    /// Empty: nothing to do.
    pub fn keys_to_write(&self, live: Option<&Object>, spec: &Value, now: Option<i64>) -> Vec<String> {
        let data = live.and_then(|secret| secret.get("/data"));
        let has = |key: &str| {
            data.and_then(|data| data.get(key))
                .and_then(Value::as_str)
                .is_some_and(|value| !value.is_empty())
        };
        let mut write: Vec<String> = Vec::new();
        for key in &self.keys {
            let wanted = key
                .setting
                .as_ref()
                .and_then(|path| at(spec, path))
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty());
            let differs = wanted.is_some_and(|text| {
                data.and_then(|data| data.get(&key.name)).and_then(Value::as_str)
                    != Some(STANDARD.encode(text).as_str())
            });
            let stale = matches!(&key.make, Recipe::Jwt { signed_with, .. } if write.contains(signed_with));
            if differs || stale || !has(&key.name) {
                write.push(key.name.clone());
            }
        }
        if let Some(certificate) = &self.certificate {
            let keys = [
                &certificate.authority_key,
                &certificate.certificate_key,
                &certificate.private_key,
            ];
            // The authority may end before what it signed.
            let is_over = |key: &&String| {
                let text = data.and_then(|data| data.get(key.as_str())?.as_str());
                let ends = text
                    .and_then(|text| STANDARD.decode(text).ok())
                    .and_then(|pem| not_after(&pem));
                matches!((ends, now), (Some(ends), Some(now)) if ends < now + RENEWED_BEFORE)
            };
            if keys.iter().any(is_over) || !keys.iter().all(|key| has(key)) {
                write.extend(keys.into_iter().cloned());
            }
        }
        write
    }
}

impl Component {
    /// Where the ClusterConfiguration's status speaks of it; none where it is there always.
    pub fn status_path(&self) -> Option<&str> {
        self.enabled.as_ref()?;
        Some(self.status.as_deref().unwrap_or(&self.name))
    }

    /// What the component wants to know of the cluster, for [`crate::Inputs::existing`]. `find` gives the live objects that a
    /// key means: one at most, or all of an observation's.
    pub fn observe<'a, L>(&self, find: impl Fn(&ObjectKey) -> L) -> Map<String, Value>
    where
        L: IntoIterator<Item = &'a Object>,
    {
        let read = |observation: &Observation| {
            let mut found = find(&observation.object).into_iter();
            if observation.object.name.contains('*') {
                return found.map(|live| Value::from(live.name())).collect();
            }
            let live = found.next();
            let Some(pointer) = &observation.pointer else {
                return live.is_some().into();
            };
            let value = live
                .and_then(|object| object.get(pointer))
                .cloned()
                .unwrap_or_default();
            match value.as_str() {
                Some(text) if observation.document => object::parse_documents(text)
                    .ok()
                    .and_then(|mut documents| documents.pop())
                    .unwrap_or_default(),
                _ => value,
            }
        };
        self.existing
            .iter()
            .map(|(name, observation)| (name.clone(), read(observation)))
            .collect()
    }

    /// What must be seen well once these manifests are applied.
    pub fn targets<'a>(&self, manifests: impl IntoIterator<Item = &'a Manifest>) -> Target {
        let mut target = Target::default();
        for manifest in manifests {
            let key = manifest.object.key();
            match manifest.phase {
                Phase::CustomResourceDefinitions => target.custom_resource_definitions.push(key),
                Phase::Workloads if !self.health.optional.contains(&key) => target.workloads.push(key),
                Phase::Webhooks => {
                    let webhooks = manifest.object.get("/webhooks").and_then(Value::as_array);
                    for service in webhooks
                        .into_iter()
                        .flatten()
                        .filter_map(|webhook| webhook.pointer("/clientConfig/service"))
                    {
                        let text = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or_default();
                        let key = ObjectKey::namespaced("", "Service", text("namespace"), text("name"));
                        if !target.webhook_services.contains(&key) {
                            target.webhook_services.push(key);
                        }
                    }
                }
                _ => {}
            }
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(live: Option<Value>, spec: Value, expect: &[&str]) {
        let secret: GeneratedSecret = serde_json::from_value(json!({
            "namespace":"n","name":"s",
            "keys":[
                {"name":"secret","setting":"a.jwt","make":{"alphanumeric":{"length":32}}},
                {"name":"token","make":{"jwt":{"signedWith":"secret","claims":{"email":"a"}}}},
            ],
            "certificate":{"authorityCommonName":"ca","commonName":"c","dnsNames":["d"],"days":1,
                "authorityKey":"ca.crt","certificateKey":"tls.crt","privateKey":"tls.key"},
        }))
        .unwrap();
        let live = live.map(|data| {
            Object::try_from(json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"n"},"data":data}))
                .unwrap()
        });
        assert_eq!(secret.keys_to_write(live.as_ref(), &spec, None), expect);
    }

    #[test]
    fn a_star_in_a_name_stands_for_anything() {
        let check = |pattern: &str, name: &str, expect: bool| {
            assert_eq!(is_named(pattern, name), expect, "{pattern} {name}");
        };
        check("istiod", "istiod", true);
        check("istiod", "istiod-1", false);
        check("istiod*", "istiod-1", true);
        check("stats-*-1-11-2", "stats-1.11-1-11-2", true);
        check("stats-*-1-11-2", "stats-1-11-2", false);
        check("stats-*-1-11-2", "stats-1.11-1-12-0", false);
        check("*", "anything", true);
    }

    #[test]
    fn keys_that_exist_are_kept_and_a_set_secret_is_followed() {
        let all = ["secret", "token", "ca.crt", "tls.crt", "tls.key"];
        check(None, json!({}), &all);
        let full = json!({"secret":"YQ==","token":"dA==","ca.crt":"eA==","tls.crt":"eA==","tls.key":"eA==","other":"eA=="});
        check(Some(full.clone()), json!({"a":{"jwt":""}}), &[]);
        check(Some(full.clone()), json!({"a":{"jwt":"a"}}), &[]);
        check(Some(full.clone()), json!({"a":{"jwt":"b"}}), &["secret", "token"]);
        let mut part = full;
        part["tls.key"] = json!("");
        part["token"] = Value::Null;
        check(Some(part), json!({}), &["token", "ca.crt", "tls.crt", "tls.key"]);
    }
}
