//! Clients in other languages, with Kubernetes' own libraries, do what programs do with the sandbox, and find what they expect.
//!
//! The same programs run on a real control plane, where not one of their checks may be left out: what they expect is
//! what a Kubernetes does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sandbox::{Config, Sandbox, ServeOptions};
use xtask::clients;
use xtask::control_plane::{ControlPlane, Options};

/// What is asked of a real control plane alone: the sandbox answers in JSON and YAML.
const SKIP_PROTOBUF: &str = "--skip-protobuf";

/// Runs a client on the cluster of a kubeconfig, and fails with all that it says if it finds anything amiss.
fn run(mut client: Command, kubeconfig: &Path) {
    let home = tempfile::tempdir().unwrap();
    let output = client
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .env("KUBECONFIG", kubeconfig)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{client:?} ends with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn python(packages: &Path) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.py");
    let mut command = Command::new("python3");
    command
        .arg(program)
        .env("PYTHONPATH", packages)
        .env("PYTHONNOUSERSITE", "1")
        // The folder is others' too.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

async fn run_on_sandbox(client: Command) {
    let config = Config {
        nodes: vec!["node1".to_owned(), "node2".to_owned()],
        ..Config::default()
    };
    let server = Sandbox::new(config).serve(ServeOptions::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    tokio::task::spawn_blocking(move || run(client, &kubeconfig))
        .await
        .unwrap();
    server.shutdown().await;
}

async fn run_on_control_plane(test: &str, client: Command) {
    let Some(control_plane) = ControlPlane::start_or_skip(test, Options::default()).await else {
        return;
    };
    let kubeconfig: PathBuf = control_plane.kubeconfig();
    tokio::task::spawn_blocking(move || run(client, &kubeconfig))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn python_does_not_see_the_difference() {
    if let Some(packages) = clients::ensure_python_or_skip("python_does_not_see_the_difference") {
        run_on_sandbox(python(&packages)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_go_does_not_see_the_difference() {
    if let Some(program) = clients::client_go_or_skip("client_go_does_not_see_the_difference") {
        let mut client = Command::new(program);
        client.arg(SKIP_PROTOBUF);
        run_on_sandbox(client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_expects_what_a_real_one_does() {
    const TEST: &str = "python_expects_what_a_real_one_does";
    if let Some(packages) = clients::ensure_python_or_skip(TEST) {
        run_on_control_plane(TEST, python(&packages)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_go_expects_what_a_real_one_does() {
    const TEST: &str = "client_go_expects_what_a_real_one_does";
    if let Some(program) = clients::client_go_or_skip(TEST) {
        run_on_control_plane(TEST, Command::new(program)).await;
    }
}
