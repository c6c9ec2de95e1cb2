//! How the four programs are started, and the files that they read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Error;
use super::certificates::{Authority, Pair, service_account_key};

/// Files of one instance, by absolute path.
pub(super) struct Files<'a> {
    pub(super) folder: &'a Path,
}

impl Files<'_> {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|source| Error::file(&path, source))?;
        Ok(path)
    }

    fn write_pair(&self, name: &str, pair: &Pair) -> Result<(PathBuf, PathBuf), Error> {
        Ok((
            self.write(&format!("{name}.crt"), &pair.certificate)?,
            self.write(&format!("{name}.key"), &pair.key)?,
        ))
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

pub(super) fn etcd(folder: &Path, port: u16, peer_port: u16) -> Vec<String> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    vec![
        flag("data-dir", folder.join("etcd").display()),
        flag("listen-client-urls", &client),
        flag("advertise-client-urls", &client),
        flag("listen-peer-urls", &peer),
        flag("initial-advertise-peer-urls", &peer),
        flag("initial-cluster", format!("default={peer}")),
        // A restore is few large transactions.
        flag("max-txn-ops", 10_000),
        flag("max-request-bytes", 32 << 20),
        flag("logger", "zap"),
        flag("log-level", "warn"),
    ]
}

pub(super) fn api_server(
    files: &Files<'_>,
    authority: &Authority,
    etcd_port: u16,
    secure_port: u16,
) -> Result<Vec<String>, Error> {
    let ca = files.write("ca.crt", &authority.pem())?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
        "127.0.0.1",
        "127.96.0.1",
    ];
    let (certificate, key) = files.write_pair("apiserver", &authority.server(&names)?)?;
    let front_proxy = Authority::generate("front-proxy")?;
    let front_proxy_ca = files.write("front-proxy-ca.crt", &front_proxy.pem())?;
    let (proxy_certificate, proxy_key) = files.write_pair(
        "front-proxy-client",
        &front_proxy.client("front-proxy-client", None)?,
    )?;
    let (private, public) = service_account_key()?;
    let private = files.write("service-account.key", &private)?;
    let public = files.write("service-account.pub", &public)?;
    let egress = json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{
            "name": "cluster",
            "connection": {
                "proxyProtocol": "HTTPConnect",
                "transport": {"uds": {"udsName": files.path("egress.sock")}},
            },
        }],
    });
    let egress = files.write("egress.json", &egress.to_string())?;
    Ok(vec![
        flag("etcd-servers", format!("http://127.0.0.1:{etcd_port}")),
        flag("bind-address", "127.0.0.1"),
        flag("secure-port", secure_port),
        // Published in the Endpoints of default/kubernetes, where loopback is not allowed. Nobody dials it.
        flag("advertise-address", "192.0.2.1"),
        flag("tls-cert-file", certificate.display()),
        flag("tls-private-key-file", key.display()),
        flag("client-ca-file", ca.display()),
        flag("requestheader-client-ca-file", front_proxy_ca.display()),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("proxy-client-cert-file", proxy_certificate.display()),
        flag("proxy-client-key-file", proxy_key.display()),
        flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        ),
        flag("service-account-signing-key-file", private.display()),
        flag("service-account-key-file", public.display()),
        flag("authorization-mode", "Node,RBAC"),
        flag("allow-privileged", true),
        // The range that the recorded clusters' Services have their addresses from.
        flag("service-cluster-ip-range", "127.96.0.0/16"),
        flag("egress-selector-config-file", egress.display()),
        // The certificates' folder is otherwise in /var/run, and shared.
        flag("cert-dir", files.folder.display()),
        flag("profiling", false),
    ])
}

/// Has every answered request noted down in `log`, one event a line.
pub(super) fn audit(files: &Files<'_>, log: &Path) -> Result<Vec<String>, Error> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata"}],
    });
    let policy = files.write("audit-policy.json", &policy.to_string())?;
    Ok(vec![
        flag("audit-policy-file", policy.display()),
        flag("audit-log-path", log.display()),
        // A line is there once the request is answered.
        flag("audit-log-mode", "blocking"),
    ])
}

pub(super) fn controller_manager(files: &Files<'_>, kubeconfig: &Path) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig.display()),
        flag(
            "service-account-private-key-file",
            files.path("service-account.key").display(),
        ),
        flag("root-ca-file", files.path("ca.crt").display()),
        flag("leader-elect", false),
        flag("port", 0),
        flag("secure-port", 0),
        // A test waits for every request; the defaults are meant to spare a busy server.
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 500),
        flag("concurrent-serviceaccount-token-syncs", 20),
        flag("profiling", false),
    ]
}

pub(super) fn scheduler(kubeconfig: &Path) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig.display()),
        flag("leader-elect", false),
        flag("port", 0),
        flag("secure-port", 0),
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 500),
        flag("profiling", false),
    ]
}
