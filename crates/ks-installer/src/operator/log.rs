//! What `kubectl logs` shows. Lines that operators and their scripts look for are as they know them.

use std::fmt::Write as _;

use object::{Object, ObjectKey};
use serde_json::Value;
use upgrade::Snapshot;

/// One line for every component that is in place: `task monitoring status is successful  (2/3)`.
pub(super) fn tasks(configuration: &Object) -> Vec<String> {
    let status = configuration.get("/status").and_then(Value::as_object);
    let names: Vec<&String> = status
        .into_iter()
        .flatten()
        .filter(|(_, status)| status.get("status").and_then(Value::as_str) == Some("enabled"))
        .map(|(name, _)| name)
        .collect();
    let all = names.len();
    (1..)
        .zip(names)
        .map(|(number, name)| format!("task {name} status is successful  ({number}/{all})"))
        .collect()
}

/// The banner that says where the console is. A password is named by where it is, never printed.
pub(crate) fn welcome(snapshot: &Snapshot, version: &str) -> String {
    let line = "#".repeat(54);
    let console =
        console(snapshot).unwrap_or_else(|| "kubectl -n kubesphere-system get service ks-console".to_owned());
    let mut out = format!("{line}\n###              Welcome to KubeSphere!            ###\n{line}\n\n");
    let _ = writeln!(out, "Version: {version}\nConsole: {console}\nAccount: admin");
    let password = first_password(snapshot);
    let _ = writeln!(
        out,
        "Password: {}\n\nStatus:  kubectl -n kubesphere-system get clusterconfiguration ks-installer\n{line}",
        password
            .as_deref()
            .unwrap_or("as it was before; this installer neither sets nor prints one")
    );
    out
}

/// The command that shows the first password of admin, where that one was made and counts still; where it was given, that.
fn first_password(snapshot: &Snapshot) -> Option<String> {
    use upgrade::install::FirstPassword;
    match upgrade::install::first_password(snapshot)? {
        FirstPassword::Given => Some(
            "as authentication.adminPassword of the ClusterConfiguration gives it, until it is changed"
                .to_owned(),
        ),
        FirstPassword::Made { secret, key } => Some(format!(
            "kubectl -n {} get secret {} -o jsonpath='{{.data.{key}}}' | base64 -d",
            secret.namespace.as_deref().unwrap_or_default(),
            secret.name
        )),
    }
}

/// `http://10.0.0.1:30880`
pub(crate) fn console(snapshot: &Snapshot) -> Option<String> {
    let service = snapshot.get(&ObjectKey::namespaced(
        "",
        "Service",
        "kubesphere-system",
        "ks-console",
    ))?;
    let port = service.get("/spec/ports/0/nodePort")?.as_u64()?;
    let node = snapshot.of_kind("", "Node").next()?;
    let addresses = node.get("/status/addresses")?.as_array()?;
    let address = addresses
        .iter()
        .find(|address| address.get("type").and_then(Value::as_str) == Some("InternalIP"))?;
    let address = address.get("address")?.as_str()?;
    Some(if address.contains(':') {
        format!("http://[{address}]:{port}")
    } else {
        format!("http://{address}:{port}")
    })
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    fn mk(value: Value) -> Object {
        Object::try_from(value).unwrap()
    }

    #[test]
    fn lines_are_as_operators_know_them() {
        let configuration = mk(
            json!({"apiVersion": "installer.kubesphere.io/v1alpha1", "kind": "ClusterConfiguration",
            "metadata": {"name": "ks-installer"},
            "status": {"phase": "Running", "core": {"status": "enabled"}, "redis": {"status": "failed"},
                "monitoring": {"status": "enabled"}}}),
        );
        assert_eq!(
            tasks(&configuration),
            [
                "task core status is successful  (1/2)",
                "task monitoring status is successful  (2/2)"
            ]
        );
        let mut snapshot = Snapshot::default();
        for object in [
            mk(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "ks-console", "namespace": "kubesphere-system"},
                "spec": {"ports": [{"nodePort": 30880}]}})),
            mk(
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
            ),
        ] {
            snapshot.objects.insert(object.key(), object);
        }
        let banner = welcome(&snapshot, "v3.3.1");
        for words in [
            "Welcome to KubeSphere!",
            "Console: http://10.0.0.1:30880\n",
            "Account: admin\n",
        ] {
            assert!(banner.contains(words), "{banner}");
        }
        assert!(!banner.contains("P@88"), "{banner}");
    }
}
