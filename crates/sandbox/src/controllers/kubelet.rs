//! What a kubelet needs before the containers of a pod run: the ConfigMaps, Secrets and claims that it names.

use serde_json::{Value, json};

use crate::controllers::{events, failing, volumes};
use crate::json::{list, list_at, namespace, text, text_at};
use crate::status::Result;
use crate::transaction::Transaction;

/// A ConfigMap or Secret that a pod names.
struct Reference<'a> {
    kind: Kind,
    name: &'a str,
    /// The one key that is needed, if it is one.
    key: Option<&'a str>,
    place: Place<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    fn store(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmaps",
            Kind::Secret => "secrets",
        }
    }
}

/// Where in a pod something is named.
#[derive(Clone, Copy)]
enum Place<'a> {
    Volume(&'a str),
    /// The environment of a container.
    Container(&'a str),
}

/// Tells what cannot be mounted, and says whether it is anything.
pub(crate) fn cannot_mount(transaction: &mut Transaction, pod: &Value) -> Result<bool> {
    let mut told: Vec<_> = references(pod)
        .filter_map(|reference| match reference.place {
            Place::Volume(volume) => {
                let why = lacking(transaction, pod, &reference)?;
                Some(format!("MountVolume.SetUp failed for volume {volume:?} : {why}"))
            }
            Place::Container(_) => None,
        })
        .collect();
    if let Some((volume, why)) = volumes::unmountable(transaction, pod) {
        let all: Vec<_> = list_at(pod, "/spec/volumes")
            .iter()
            .map(|volume| text(volume, "name"))
            .collect();
        told.push(format!(
            "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[{}]: {why}",
            all.join(" ")
        ));
    }
    for message in &told {
        events::tell_once(transaction, pod, &events::FAILED_MOUNT, message)?;
    }
    Ok(!told.is_empty())
}

/// Turns the status of a pod that would run into that of one whose containers lack something of their environment, if they
/// do. `before` is the pod as it was.
pub(crate) fn check_environment(
    transaction: &mut Transaction,
    before: &Value,
    pod: &mut Value,
) -> Result<()> {
    let lacking: Vec<(String, String)> = references(before)
        .filter_map(|reference| match reference.place {
            Place::Container(container) => {
                Some((container.to_owned(), lacking(transaction, before, &reference)?))
            }
            Place::Volume(_) => None,
        })
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    failing::hold_up(pod, |container| {
        let (_, why) = lacking.iter().find(|(name, _)| name == text(container, "name"))?;
        Some(json!({ "reason": "CreateContainerConfigError", "message": why }))
    });
    if failing::states(before) == failing::states(pod) {
        pod.clone_from(before);
        return Ok(());
    }
    for (_, why) in &lacking {
        events::tell_once(transaction, before, &events::FAILED, &format!("Error: {why}"))?;
    }
    Ok(())
}

/// Whether a pod names an object of a kind; `store` is the plural of the kind.
pub(crate) fn names(pod: &Value, store: &str, name: &str) -> bool {
    references(pod).any(|reference| reference.kind.store() == store && reference.name == name)
}

/// Why a reference leads nowhere, in the words of the kubelet.
fn lacking(transaction: &Transaction, pod: &Value, reference: &Reference) -> Option<String> {
    let (store, name) = (reference.kind.store(), reference.name);
    let Some(found) = transaction.state.find(store, namespace(pod), name) else {
        let kind = store.trim_end_matches('s');
        return Some(format!("{kind} {name:?} not found"));
    };
    let key = reference.key?;
    let has = ["data", "binaryData"]
        .iter()
        .any(|field| found.get(*field).is_some_and(|data| data.get(key).is_some()));
    (!has).then(|| {
        format!(
            "couldn't find key {key} in {:?} {}/{name}",
            reference.kind,
            namespace(pod)
        )
    })
}

/// All ConfigMaps and Secrets that a pod cannot do without.
fn references(pod: &Value) -> impl Iterator<Item = Reference<'_>> {
    let account = text_at(pod, "/spec/serviceAccountName");
    let mounted = list_at(pod, "/spec/volumes").iter().flat_map(|volume| {
        let place = Place::Volume(text(volume, "name"));
        let direct = [
            reference(Kind::ConfigMap, volume.get("configMap"), "name", place),
            reference(Kind::Secret, volume.get("secret"), "secretName", place),
        ];
        let projected = list_at(volume, "/projected/sources");
        direct
            .into_iter()
            .chain(either(projected, ["/configMap", "/secret"], place))
            .flatten()
    });
    let environment = ["/spec/initContainers", "/spec/containers"]
        .into_iter()
        .flat_map(move |key| list_at(pod, key))
        .flat_map(|container| {
            let place = Place::Container(text(container, "name"));
            let whole = either(list(container, "envFrom"), ["/configMapRef", "/secretRef"], place);
            let single = either(
                list(container, "env"),
                ["/valueFrom/configMapKeyRef", "/valueFrom/secretKeyRef"],
                place,
            );
            whole.chain(single).flatten()
        });
    // What every pod gets for its account is the cluster's own affair, and copies may lack it.
    mounted
        .chain(environment)
        .filter(move |reference| match reference.kind {
            Kind::ConfigMap => reference.name != "kube-root-ca.crt",
            Kind::Secret => !reference
                .name
                .strip_prefix(account)
                .is_some_and(|rest| !account.is_empty() && rest.starts_with("-token-")),
        })
}

/// What each of a list names: a ConfigMap at the first path, a Secret at the second.
fn either<'a>(
    all: &'a [Value],
    [config_map, secret]: [&'static str; 2],
    place: Place<'a>,
) -> impl Iterator<Item = Option<Reference<'a>>> {
    all.iter().flat_map(move |one| {
        [
            reference(Kind::ConfigMap, one.pointer(config_map), "name", place),
            reference(Kind::Secret, one.pointer(secret), "name", place),
        ]
    })
}

fn reference<'a>(
    kind: Kind,
    source: Option<&'a Value>,
    field: &str,
    place: Place<'a>,
) -> Option<Reference<'a>> {
    let source = source?;
    let name = text(source, field);
    let is_needed = source.get("optional") != Some(&Value::Bool(true)) && !name.is_empty();
    is_needed.then_some(Reference {
        kind,
        name,
        key: source.get("key").and_then(Value::as_str),
        place,
    })
}
