//! Helm 3's release records: Secrets that hold `base64(base64(gzip(JSON)))` under `data.release`.
//!
//! Source: Helm 3, `pkg/storage/driver` (names, labels, encoding) and `pkg/release` (the JSON).

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object::{Object, ObjectError};
use serde_json::{Value, json};

mod revision;

pub use revision::{
    MAX_RECORD, carried, current, describes, overtaken, successor, unmarked, with_recorded_secrets,
};

/// The type of the Secrets that hold records.
pub const SECRET_TYPE: &str = "helm.sh/release.v1";

/// The annotation that keeps an object when its release no longer has it, or goes.
pub const RESOURCE_POLICY: &str = "helm.sh/resource-policy";

/// A Secret that is no readable record.
#[derive(Debug, thiserror::Error)]
pub enum HelmError {
    #[error("data.release is missing")]
    NoData,
    #[error("data.release is not base64 of base64")]
    Base64(#[source] base64::DecodeError),
    #[error("data.release is not gzip")]
    Gzip(#[source] std::io::Error),
    #[error("data.release is not a release")]
    Json(#[source] serde_json::Error),
    #[error("the release has no {0}")]
    Missing(&'static str),
    #[error("the manifest is not YAML: {0}")]
    Manifest(String),
    #[error("an object of the manifest is not one")]
    Object(#[source] ObjectError),
    #[error("the record is no Secret")]
    Secret(#[source] ObjectError),
}

/// How many bytes a gzip file says that it holds, as far as that is believable (RFC 1952, ISIZE).
fn unpacked_size(packed: &[u8]) -> usize {
    const MOST: usize = 1 << 24;
    let says = packed.last_chunk().map_or(0, |size| u32::from_le_bytes(*size));
    usize::try_from(says).map_or(MOST, |size| size.min(MOST))
}

/// One revision of a release.
///
/// Its `Debug` shows what it is, not what it holds: manifests and values carry secrets.
#[derive(Clone, PartialEq)]
pub struct Record {
    raw: Value,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Record({}/{} v{} {})",
            self.namespace(),
            self.name(),
            self.revision(),
            self.status()
        )
    }
}

impl Record {
    /// Reads the record out of its Secret.
    pub fn decode(secret: &Object) -> Result<Self, HelmError> {
        let data = secret.get_str("/data/release").ok_or(HelmError::NoData)?;
        let inner = STANDARD.decode(data).map_err(HelmError::Base64)?;
        let packed = STANDARD.decode(inner).map_err(HelmError::Base64)?;
        let raw: Value = if packed.starts_with(&[0x1f, 0x8b]) {
            let mut json = Vec::with_capacity(unpacked_size(&packed));
            GzDecoder::new(packed.as_slice())
                .read_to_end(&mut json)
                .map_err(HelmError::Gzip)?;
            serde_json::from_slice(&json).map_err(HelmError::Json)?
        } else {
            // Helm reads records that were written without compression, too.
            serde_json::from_slice(&packed).map_err(HelmError::Json)?
        };
        Self::from_value(raw)
    }

    /// The release's JSON as a record.
    pub fn from_value(raw: Value) -> Result<Self, HelmError> {
        let is_text = |pointer: &str| raw.pointer(pointer).is_some_and(Value::is_string);
        for (pointer, name) in [
            ("/name", "name"),
            ("/namespace", "namespace"),
            ("/info/status", "status"),
            ("/manifest", "manifest"),
        ] {
            if !is_text(pointer) {
                return Err(HelmError::Missing(name));
            }
        }
        if raw.get("version").and_then(Value::as_u64).is_none() {
            return Err(HelmError::Missing("revision"));
        }
        Ok(Self { raw })
    }

    fn text(&self, pointer: &str) -> &str {
        self.raw
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.text("/name")
    }

    pub fn namespace(&self) -> &str {
        self.text("/namespace")
    }

    /// 1 for the first.
    pub fn revision(&self) -> u64 {
        self.raw
            .get("version")
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }

    /// `deployed`, `superseded`, `failed`, `pending-upgrade`, …
    pub fn status(&self) -> &str {
        self.text("/info/status")
    }

    /// Whether an operation was cut: Helm refuses to work on such a release.
    pub fn is_pending(&self) -> bool {
        self.status().starts_with("pending-")
    }

    /// YAML documents.
    pub fn manifest(&self) -> &str {
        self.text("/manifest")
    }

    /// The values the chart was rendered with.
    pub fn config(&self) -> &Value {
        self.raw.get("config").unwrap_or(&Value::Null)
    }

    pub fn chart(&self) -> &Value {
        self.raw.get("chart").unwrap_or(&Value::Null)
    }

    /// The whole JSON.
    pub fn as_value(&self) -> &Value {
        &self.raw
    }

    /// The objects of the manifest. Those of namespaced kinds that name no namespace are in the release's; what others
    /// name is left out, as the API server does.
    /// `is_namespaced` is asked with API group and kind; [`is_namespaced`] is good for what needs no cluster.
    pub fn manifest_objects(
        &self,
        is_namespaced: &dyn Fn(&str, &str) -> bool,
    ) -> Result<Vec<Object>, HelmError> {
        let documents = object::parse_documents(self.manifest())
            .or_else(|error| object::parse_documents(&as_go_reads(self.manifest())).map_err(|_| error))
            .map_err(HelmError::Manifest)?;
        let mut objects = Vec::new();
        for document in documents {
            let mut object = Object::try_from(document).map_err(HelmError::Object)?;
            let namespaced = is_namespaced(object.group(), object.kind());
            if object.namespace().is_none() && namespaced {
                object.as_map_mut()["metadata"]["namespace"] = self.namespace().into();
            } else if !namespaced && let Some(metadata) = object.as_map_mut()["metadata"].as_object_mut() {
                metadata.remove("namespace");
            }
            objects.push(object);
        }
        Ok(objects)
    }

    /// What the record's Secret is called.
    pub fn secret_name(&self) -> String {
        format!("sh.helm.release.v1.{}.v{}", self.name(), self.revision())
    }

    /// How large the record is in its Secret, in bytes; see [`MAX_RECORD`].
    pub fn size(&self) -> Result<usize, HelmError> {
        Ok(self.pack()?.len())
    }

    /// The Secret that holds the record. `modified_at` is in Unix seconds.
    pub fn encode(&self, modified_at: i64) -> Result<Object, HelmError> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.secret_name(),
                "namespace": self.namespace(),
                "labels": {
                    "modifiedAt": modified_at.to_string(),
                    "name": self.name(),
                    "owner": "helm",
                    "status": self.status(),
                    "version": self.revision().to_string(),
                },
            },
            "type": SECRET_TYPE,
            "data": {"release": STANDARD.encode(self.pack()?)},
        });
        Object::try_from(secret).map_err(HelmError::Secret)
    }

    /// What a Secret's key `release` holds.
    fn pack(&self) -> Result<String, HelmError> {
        let json = serde_json::to_vec(&self.raw).map_err(HelmError::Json)?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&json).map_err(HelmError::Gzip)?;
        Ok(STANDARD.encode(encoder.finish().map_err(HelmError::Gzip)?))
    }
}

/// Writes objects as a release's manifest.
pub fn to_manifest<'a>(objects: impl IntoIterator<Item = &'a Object>) -> String {
    manifest_of(objects.into_iter().map(Object::as_value))
}

/// The same for objects that are plain values.
pub fn manifest_of<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    let mut manifest = String::new();
    for object in objects {
        manifest.push_str("---\n");
        manifest.push_str(&crate::yaml::to_yaml(object));
    }
    manifest
}

/// Whether a Secret is a record of the release.
pub fn is_record_of(secret: &Object, name: &str, namespace: &str) -> bool {
    secret.key().is_secret()
        && secret.get_str("/type") == Some(SECRET_TYPE)
        && secret.namespace() == Some(namespace)
        && secret.label("name") == Some(name)
}

/// The release's records among the Secrets given, oldest first.
///
/// # Errors
/// The first record that cannot be read.
pub fn history<'a>(
    secrets: impl IntoIterator<Item = &'a Object>,
    name: &str,
    namespace: &str,
) -> Result<Vec<Record>, HelmError> {
    let mut records = secrets
        .into_iter()
        .filter(|secret| is_record_of(secret, name, namespace))
        .map(Record::decode)
        .collect::<Result<Vec<_>, _>>()?;
    records.sort_by_key(Record::revision);
    Ok(records)
}

/// The revision that describes what is in the cluster: the latest one that was deployed.
pub fn latest_deployed(records: &[Record]) -> Option<&Record> {
    records
        .iter()
        .filter(|record| record.status() == "deployed")
        .max_by_key(|record| record.revision())
}

/// Whether the object stays when its release no longer has it.
pub fn is_kept(object: &Object) -> bool {
    object.annotation(RESOURCE_POLICY) == Some("keep")
}

/// Whether a kind is namespaced, for the kinds of Kubernetes and KubeSphere that manifests hold. Kinds not known to
/// be cluster-wide count as namespaced; the cluster's discovery knows better where it can be asked.
pub fn is_namespaced(group: &str, kind: &str) -> bool {
    match group {
        "" => !matches!(kind, "Namespace" | "Node" | "PersistentVolume"),
        "rbac.authorization.k8s.io" => !kind.starts_with("Cluster"),
        "apiextensions.k8s.io"
        | "admissionregistration.k8s.io"
        | "apiregistration.k8s.io"
        | "scheduling.k8s.io"
        | "node.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "certificates.k8s.io"
        | "tenant.kubesphere.io"
        | "cluster.kubesphere.io"
        | "storage.kubesphere.io"
        | "notification.kubesphere.io" => false,
        "monitoring.kubesphere.io" => kind != "ClusterDashboard",
        "storage.k8s.io" => kind == "CSIStorageCapacity",
        "snapshot.storage.k8s.io" => kind == "VolumeSnapshot",
        "policy" => kind != "PodSecurityPolicy",
        "iam.kubesphere.io" => kind.starts_with("Federated"),
        "auditing.kubesphere.io" => kind != "Webhook",
        "quota.kubesphere.io" => kind != "ResourceQuota",
        "application.kubesphere.io" => kind == "HelmRelease",
        "devops.kubesphere.io" => !matches!(kind, "ClusterTemplate" | "DevOpsProject" | "S2iBuilderTemplate"),
        _ => true,
    }
}

/// A manifest that Go's YAML reader takes and the standard does not: `\'` inside double quotes, as in the record that
/// upstream's 3.3.1 leaves of DevOps. Only lines whose value is in double quotes are touched; in a script `\'` stays.
fn as_go_reads(manifest: &str) -> String {
    let fix = |line: &str| {
        let is_quoted = line
            .split_once(": ")
            .is_some_and(|(_, value)| value.starts_with('"'));
        if is_quoted {
            line.replace("\\'", "'")
        } else {
            line.to_owned()
        }
    };
    manifest.split_inclusive('\n').map(fix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_record(revision: u64, status: &str) -> Record {
        Record::from_value(json!({
            "name":"ks-core","namespace":"kubesphere-system","version":revision,
            "info":{"status":status,"first_deployed":"a","notes":"n"},
            "chart":{"metadata":{"name":"ks-core"}},"config":{"replicaCount":1},"kept":"too",
            "manifest":"---\n# Source: x\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: d}\n",
        }))
        .unwrap()
    }

    #[test]
    fn what_go_reads_is_read() {
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: n}\ndata:\n  \
                        text: \"the user\\'s own\"\n  script: |\n    echo: it\\'s\n";
        let record = Record::from_value(json!({"name": "a", "namespace": "n", "version": 1,
            "info": {"status": "deployed"}, "manifest": manifest}))
        .unwrap();
        let objects = record.manifest_objects(&is_namespaced).unwrap();
        assert_eq!(objects[0].get_str("/data/text"), Some("the user's own"));
        assert_eq!(objects[0].get_str("/data/script"), Some("echo: it\\'s\n"));
    }

    #[test]
    fn a_cluster_wide_object_has_no_namespace_whatever_the_chart_says() {
        let manifest = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a, namespace: n}\n";
        let record = Record::from_value(json!({"name": "a", "namespace": "n", "version": 1,
            "info": {"status": "deployed"}, "manifest": manifest}))
        .unwrap();
        let objects = record.manifest_objects(&is_namespaced).unwrap();
        assert_eq!(objects[0].namespace(), None);
    }

    #[test]
    fn a_record_survives_its_secret() {
        let record = mk_record(3, "deployed");
        let secret = record.encode(1_795_382_416).unwrap();
        assert_eq!(
            secret.key().to_string(),
            "Secret kubesphere-system/sh.helm.release.v1.ks-core.v3"
        );
        let labels = json!({"modifiedAt":"1795382416","name":"ks-core","owner":"helm","status":"deployed","version":"3"});
        assert_eq!(secret.get("/metadata/labels"), Some(&labels));
        assert_eq!(secret.get_str("/type"), Some(SECRET_TYPE));
        assert_eq!(Record::decode(&secret).unwrap(), record);
    }

    /// Packed by another program, as Helm does.
    #[test]
    fn a_record_is_read_as_others_write_it() {
        let data = "\
            SDRzSUFBQUFBQUFDQTQyT3ZRckNNQkNBWHlYYzNKYlV3U0dyazRPYk9FaEF6aWJWWUhvSlRSUkUrdTVlS2twSDRZYj\
            crZTY3ZXdIaFlFRUJRZ1dPK2dEcUJiMGJVejRaRzMxNFdzUERsVnl0YTlseTdLVlVjeHlaOS9nWFpxeTNlUWJtSW5X\
            amk5a0Y0c2FXVWtidlJSZUdXQ0FHdUpIdmlXYy84VlJCZDhVeGw5Y0dtOUZneHBJdlBuL1lNWDJNc21rYkNSUHZERW\
            l1dDRuWG9LNXJUUmpkNFlNcDhXZzEzUndaSlRhQmVuZlpZZFQwZFN0TlFoUzVFcWhwYVcrcitXaUsySlhMWjVqZUVr\
            ZSthMEFCQUFBPQ==";
        let secret = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"sh.helm.release.v1.a.v1"},"data":{"release":data}});
        let record = Record::decode(&Object::try_from(secret).unwrap()).unwrap();
        assert_eq!(format!("{record:?}"), "Record(b/a v1 deployed)");
        let objects = record.manifest_objects(&is_namespaced).unwrap();
        assert_eq!(objects[0].key().to_string(), "ConfigMap b/a");
    }

    #[test]
    fn objects_without_namespace_are_in_the_release_s() {
        let keys: Vec<String> = mk_record(1, "deployed")
            .manifest_objects(&is_namespaced)
            .unwrap()
            .iter()
            .map(|object| object.key().to_string())
            .collect();
        assert_eq!(
            keys,
            ["ConfigMap kubesphere-system/a", "Namespace b", "Service d/c"]
        );
    }

    #[test]
    fn the_latest_deployed_revision_describes_the_cluster() {
        let secrets = [
            (1, "superseded"),
            (11, "failed"),
            (2, "deployed"),
            (10, "deployed"),
        ]
        .map(|(revision, status)| mk_record(revision, status).encode(0).unwrap());
        let records = history(&secrets, "ks-core", "kubesphere-system").unwrap();
        assert_eq!(
            records.iter().map(Record::revision).collect::<Vec<_>>(),
            [1, 2, 10, 11]
        );
        assert_eq!(latest_deployed(&records).map(Record::revision), Some(10));
        assert_eq!(history(&secrets, "ks", "kubesphere-system").unwrap(), []);
    }

    #[test]
    fn what_is_no_record_is_an_error_that_shows_nothing() {
        let check = |data: &str, expect: &str| {
            let secret =
                json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"release":data}});
            let error = Record::decode(&Object::try_from(secret).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check("!", "data.release is not base64 of base64");
        check(
            &STANDARD.encode(STANDARD.encode("hunter2")),
            "data.release is not a release",
        );
        check(&STANDARD.encode(STANDARD.encode("{}")), "the release has no name");
        let debug = format!("{:?}", mk_record(1, "deployed"));
        assert_eq!(debug, "Record(kubesphere-system/ks-core v1 deployed)");
    }

    #[test]
    fn manifests_are_read_as_they_are_written() {
        let objects = mk_record(1, "deployed").manifest_objects(&is_namespaced).unwrap();
        let mut written = mk_record(1, "deployed").as_value().clone();
        written["manifest"] = to_manifest(&objects).into();
        let read = Record::from_value(written)
            .unwrap()
            .manifest_objects(&is_namespaced)
            .unwrap();
        assert_eq!(read, objects);
    }

    #[test]
    fn only_the_keep_policy_keeps() {
        let check = |policy: Value, expect: bool| {
            let object = json!({"apiVersion":"v1","kind":"A","metadata":{"name":"a","annotations":{RESOURCE_POLICY: policy}}});
            assert_eq!(is_kept(&Object::try_from(object).unwrap()), expect);
        };
        check(json!("keep"), true);
        check(json!("delete"), false);
        check(Value::Null, false);
    }
}
