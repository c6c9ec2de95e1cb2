//! The real kubectl, and the installer as the ServiceAccount that the manifest makes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use xtask::control_plane::ControlPlane;

use crate::common::{Caller, kubeconfig_of};

/// Who the installer is in the cluster.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:kubesphere-system:ks-installer";
pub(crate) const GROUPS: &[&str] = &[
    "system:serviceaccounts",
    "system:serviceaccounts:kubesphere-system",
    "system:authenticated",
];

/// The real kubectl, as the cluster's administrator.
pub(crate) struct Kubectl {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf, control_plane: &ControlPlane) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = kubeconfig_of(control_plane).to_string();
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { program, folder }
    }

    /// What it says, and whether it did not fail.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = tokio::process::Command::new(&self.program)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("KUBECONFIG", "kubeconfig")
            .env("HOME", self.folder.path())
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            (true, said)
        } else {
            (false, said + &complained)
        }
    }

    pub(crate) async fn say(&self, arguments: &[&str]) -> String {
        let (worked, said) = self.run(arguments).await;
        assert!(worked, "kubectl {arguments:?}: {said}");
        said
    }

    pub(crate) async fn get(&self, arguments: &[&str]) -> Value {
        let text = self.say(&[&["get", "-o", "json"], arguments].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn may(&self, arguments: &[&str]) -> bool {
        let (_, said) = self
            .run(&[&["auth", "can-i", "--as", ACCOUNT], arguments].concat())
            .await;
        said.lines().next() == Some("yes")
    }
}

/// A file of what is deployed.
pub(crate) fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// How many requests of this user, or of somebody in its name, were answered 403, reads among them.
pub(crate) fn forbidden(control_plane: &ControlPlane, user: &str) -> usize {
    let requests = control_plane.requests();
    let is_user = |event: &Value| {
        let name = event.pointer("/impersonatedUser/username");
        name.unwrap_or(&event["user"]["username"]) == user
    };
    assert!(requests.iter().any(is_user), "{user} asked for nothing");
    let refused = requests
        .iter()
        .filter(|event| event["responseStatus"]["code"] == 403);
    refused.filter(|event| is_user(event)).count()
}

impl Caller {
    /// Starts the program; what it says goes to a file. It does not outlive the test.
    pub(crate) fn start_to(&self, arguments: &[&str], log: &str) -> tokio::process::Child {
        let file = std::fs::File::create(self.path(log)).unwrap();
        self.command(arguments)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap()
    }
}
