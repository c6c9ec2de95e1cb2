//! Real clients on the sandbox: kubectl and helm do what people do with them, and find what they expect.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sandbox::{Config, Sandbox, ServeOptions, Server};
use xtask::helm;

/// A client with the kubeconfig of a sandbox, in a home of its own.
struct Client {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Client {
    fn new(program: PathBuf, server: &Server) -> Client {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("kubeconfig"), server.kubeconfig()).unwrap();
        Client { program, home }
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn output(&self, arguments: &str) -> Output {
        let home: &Path = self.home.path();
        Command::new(&self.program)
            .args(arguments.split_whitespace())
            .current_dir(home)
            .env("HOME", home)
            .env("KUBECONFIG", home.join("kubeconfig"))
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns what it prints.
    fn run(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{arguments}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command whose output must have this.
    fn check(&self, arguments: &str, expect: &str) {
        let printed = self.run(arguments);
        assert!(
            printed.contains(expect),
            "{arguments}: no {expect:?} in\n{printed}"
        );
    }

    /// Runs a command that must fail, with this among what it says.
    fn check_refused(&self, arguments: &str, expect: &str) {
        let output = self.output(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success(), "{arguments} succeeds: {said}");
        assert!(said.contains(expect), "{arguments}: no {expect:?} in\n{said}");
    }
}

async fn mk_server() -> Server {
    let config = Config {
        nodes: vec!["node1".to_owned(), "node2".to_owned()],
        ..Config::default()
    };
    Sandbox::new(config).serve(ServeOptions::default()).await.unwrap()
}

const MANIFEST: &str = "apiVersion: apps/v1
kind: Deployment
metadata: { name: web, labels: { app: web } }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec: { containers: [{ name: web, image: 'web:1', ports: [{ containerPort: 80 }] }] }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: web }
data: { a: '1', b: '2' }
";

const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: users.example.com }
spec:
  group: example.com
  scope: Cluster
  names: { plural: users, singular: user, kind: User, listKind: UserList }
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{ name: Mail, type: string, jsonPath: .spec.mail }]
    schema: { openAPIV3Schema: { type: object, properties: { spec: { type: object, required: [mail], properties: { mail: { type: string } } } } } }
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_does_not_see_the_difference() {
    if let Some(program) = helm::ensure_kubectl_or_skip("kubectl_does_not_see_the_difference") {
        use_kubectl(program).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubectl_of_today_does_not_see_it_either() {
    if let Some(program) = helm::ensure_new_kubectl_or_skip("a_kubectl_of_today_does_not_see_it_either") {
        use_kubectl(program).await;
    }
}

async fn use_kubectl(program: PathBuf) {
    let server = mk_server().await;
    let kubectl = Client::new(program, &server);
    kubectl.file("web.yaml", MANIFEST);
    kubectl.file("users.yaml", DEFINITION);
    kubectl.file(
        "ann.yaml",
        "apiVersion: example.com/v1\nkind: User\nmetadata: { name: ann }\nspec: { mail: a@b }\n",
    );
    kubectl.file(
        "ben.yaml",
        "apiVersion: example.com/v1\nkind: User\nmetadata: { name: ben }\nspec: {}\n",
    );

    kubectl.check("version", "v1.20.2");
    kubectl.check("api-resources", "deployments");
    kubectl.check("explain deployment.spec.strategy", "rollingUpdate");
    kubectl.check("explain pods.spec.containers --recursive", "livenessProbe");
    let (deployment, _) = MANIFEST.split_once("---").unwrap();
    kubectl.file("typo.yaml", &deployment.replace("replicas: 2", "replica: 2"));
    kubectl.check_refused("create -f typo.yaml", "unknown field");
    kubectl.check(
        "create -n default -f typo.yaml --validate=false --dry-run=server",
        "created (server dry run)",
    );
    kubectl.check("create namespace team", "namespace/team created");
    // Applied by the client, changed, and applied by the server.
    kubectl.check("apply -n team -f web.yaml", "deployment.apps/web created");
    kubectl.check("apply -n team -f web.yaml", "deployment.apps/web unchanged");
    kubectl.check(
        "rollout status -n team deployment/web --timeout=30s",
        "successfully rolled out",
    );
    kubectl.check(
        "wait -n team deployment/web --for=condition=Available --timeout=30s",
        "condition met",
    );
    kubectl.check("get pods -n team -o wide", "Running");
    kubectl.check("get deployment web -n team -o wide", "2/2");
    kubectl.check("get deployment web -n team -o yaml", "image: web:1");
    kubectl.check("describe deployment web -n team", "2 available");
    kubectl.file(
        "web.yaml",
        &MANIFEST.replace("web:1", "web:2").replace(", b: '2'", ""),
    );
    let diff = kubectl.output("diff -n team -f web.yaml");
    assert_eq!(
        diff.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&diff.stderr)
    );
    assert!(String::from_utf8_lossy(&diff.stdout).contains("web:2"));
    kubectl.check("apply -n team -f web.yaml", "deployment.apps/web configured");
    kubectl.check("get configmap web -n team -o jsonpath={.data}", r#"{"a":"1"}"#);
    kubectl.check("rollout history -n team deployment/web", "2");
    kubectl.check("rollout undo -n team deployment/web", "rolled back");
    kubectl.check(
        "rollout status -n team deployment/web --timeout=30s",
        "successfully rolled out",
    );
    kubectl.check("scale -n team deployment/web --replicas=3", "scaled");
    kubectl.check(
        "patch configmap web -n team --type=merge -p {\"data\":{\"c\":\"3\"}}",
        "patched",
    );
    kubectl.check_refused(
        "apply --server-side --field-manager=other -n team -f web.yaml",
        "conflict",
    );
    kubectl.check(
        "apply --server-side --force-conflicts --field-manager=other -n team -f web.yaml",
        "serverside-applied",
    );

    kubectl.check("apply -f users.yaml", "created");
    kubectl.check(
        "wait crd/users.example.com --for=condition=Established --timeout=30s",
        "condition met",
    );
    kubectl.check("explain users.spec", "mail");
    kubectl.file(
        "typo.yaml",
        "apiVersion: example.com/v1\nkind: User\nmetadata: { name: cid }\nspec: { mail: a@b, male: c }\n",
    );
    kubectl.check_refused("apply -f typo.yaml", "unknown field");
    kubectl.check("apply -f ann.yaml", "user.example.com/ann created");
    // Whether the client finds it or the server.
    kubectl.check_refused("apply -f ben.yaml", "mail");
    kubectl.check_refused("apply -f ben.yaml --validate=false", "spec.mail: Required value");
    kubectl.check("get users", "a@b");

    kubectl.check("auth can-i create deployments", "yes");
    kubectl.check_refused("auth can-i create deployments --as=ann", "no");
    kubectl.check_refused("get pods -n team --as=ann", "is forbidden");
    kubectl.check(
        "create rolebinding ann -n team --clusterrole=view --user=ann",
        "created",
    );
    kubectl.check("get pods -n team --as=ann", "Running");
    kubectl.check_refused("delete pods --all -n team --as=ann", "is forbidden");
    kubectl.check("auth can-i --list -n team --as=ann", "pods");
    kubectl.check("delete -n team -f web.yaml", "deleted");
    kubectl.check("delete namespace team", "deleted");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_account_opens_what_its_roles_open() {
    let Some(program) = helm::ensure_kubectl_or_skip("a_token_of_an_account_opens_what_its_roles_open")
    else {
        return;
    };
    let server = mk_server().await;
    let kubectl = Client::new(program, &server);
    kubectl.check("create serviceaccount robot", "created");
    kubectl.check(
        "create rolebinding robot --clusterrole=edit --serviceaccount=default:robot",
        "created",
    );
    let secret = kubectl.run("get serviceaccount robot -o jsonpath={.secrets[0].name}");
    let token = kubectl.run(&format!(
        "get secret {secret} -o go-template={{{{.data.token|base64decode}}}}"
    ));
    let as_robot = |arguments: &str| format!("--token={token} {arguments}");
    // The kubeconfig's own token would win over one on the command line.
    let config = server
        .kubeconfig()
        .lines()
        .filter(|line| !line.trim_start().starts_with("token:"))
        .map(|line| {
            if line.ends_with("user:") && line.starts_with("  ") {
                "  user: {}\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect::<String>();
    kubectl.file("kubeconfig", &config);
    kubectl.check(&as_robot("create configmap a"), "created");
    kubectl.check_refused(&as_robot("get nodes"), "is forbidden");
    kubectl.check_refused("--token=nonsense get configmaps", "Unauthorized");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_does_not_see_the_difference() {
    let Some(program) = helm::ensure_or_skip("helm_does_not_see_the_difference") else {
        return;
    };
    let server = mk_server().await;
    let helm = Client::new(program, &server);
    helm.file(
        "chart/Chart.yaml",
        "{apiVersion: v2, name: chart, version: 1.0.0}",
    );
    helm.file("chart/values.yaml", "image: web:1\n");
    helm.file("chart/crds/users.yaml", DEFINITION);
    let hooked = "apiVersion: batch/v1
kind: Job
metadata: { name: before, annotations: { helm.sh/hook: 'pre-install,pre-upgrade', helm.sh/hook-delete-policy: before-hook-creation } }
spec: { template: { spec: { restartPolicy: Never, containers: [{ name: a, image: 'a:1' }] } } }
";
    helm.file("chart/templates/job.yaml", hooked);
    helm.file(
        "chart/templates/web.yaml",
        &MANIFEST.replace("'web:1'", "{{ .Values.image | quote }}"),
    );
    helm.check("install web chart --wait --timeout 60s", "STATUS: deployed");
    helm.check("list", "chart-1.0.0");
    helm.check(
        "upgrade web chart --wait --timeout 60s --set image=web:2",
        "REVISION: 2",
    );
    helm.check("rollback web 1 --wait --timeout 60s", "Rollback was a success");
    helm.check("history web", "Rollback to 1");
    helm.check("get manifest web", "image: \"web:1\"");
    helm.check("status web", "STATUS: deployed");
    helm.check("uninstall web", "uninstalled");
    server.shutdown().await;
}
