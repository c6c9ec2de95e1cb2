//! The operator as a process, on a sandbox that is served over HTTPS.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use object::ObjectKey;
use serde_json::{Value, json};

use crate::{
    installer::{Served, serve},
    support::{block_on, client, tenants, tenants_but, upgraded},
};

const SPEC: &str = "installer.kubesphere.io";
const LIMIT: Duration = Duration::from_mins(1);

/// KubeSphere's own controllers do not run here.
const ARGUMENTS: &[&str] = &[
    "operator",
    "--metrics-address",
    "127.0.0.1:0",
    "--wait-controllers",
    "0",
    "--wait",
    "5",
];

/// A served cluster, and an operator on it.
pub(crate) struct Operated {
    pub(crate) served: Served,
    child: Child,
    /// Where it says what it does.
    log: &'static str,
}

impl Operated {
    pub(crate) fn on(sandbox: sandbox::Sandbox) -> Self {
        Self::begin(serve(sandbox), "operator.log")
    }

    fn begin(served: Served, log: &'static str) -> Self {
        let child = served.spawn_to(ARGUMENTS, log);
        Self { served, child, log }
    }

    fn configuration(&self) -> Value {
        let objects = self.served.sandbox.objects();
        let found = objects.iter().find(|o| o["kind"] == "ClusterConfiguration");
        (**found.unwrap()).clone()
    }

    /// Waits until the status is so, and gives it.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let now = self.configuration();
            if is_so(&now) {
                return now["status"].clone();
            }
            assert!(
                begin.elapsed() < LIMIT,
                "never {what}: {:#}\n{}",
                now["status"],
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn wait_for(&self, kind: &str, status: &str) -> Value {
        self.wait(&format!("{kind}={status}"), |now| {
            condition(&now["status"], kind).is_some_and(|c| c["status"] == status)
        })
    }

    fn patch(&self, key: &ObjectKey, patch: &Value) {
        block_on(async { client(&self.served.sandbox).merge_patch(key, patch).await }).unwrap();
    }

    fn edit(&self, patch: &Value) {
        self.patch(&upgrade::cluster_configuration_key(), patch);
    }

    fn annotate(&self, name: &str, value: impl Into<Value>) {
        let name = format!("{SPEC}/{name}");
        self.edit(&json!({"metadata": {"annotations": {name: value.into()}}}));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.served.installer.path(self.log)).unwrap()
    }

    /// Everything in the cluster that is not the operator's own book-keeping.
    fn platform(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for object in self.served.sandbox.objects() {
            let (kind, name) = (object["kind"].as_str().unwrap(), &object["metadata"]["name"]);
            if ["Lease", "Event"].contains(&kind) || name == "ks-installer-plan" {
                continue;
            }
            let mut object = (*object).clone();
            if kind == "ClusterConfiguration" {
                let mut spec = object["spec"].take();
                spec["version"] = object["status"]["core"]["version"].take();
                object = spec;
            }
            all.push(object);
        }
        all
    }

    /// Asks it to end; it does, and gives its Leases back. Gives what it said, in which there is no secret.
    #[track_caller]
    pub(crate) fn end(&mut self) -> String {
        let pid = self.child.id().to_string();
        let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(killed.unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        for lease in self
            .served
            .sandbox
            .objects()
            .iter()
            .filter(|o| o["kind"] == "Lease")
        {
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            assert!(!holder.starts_with("operator"), "{lease}");
        }
        let log = self.log();
        self.served.installer.check_no_secret("the operator's log", &log);
        assert!(!log.contains("panicked"), "{log}");
        log
    }
}

impl Drop for Operated {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

fn version(status: &Value) -> &Value {
    &status["core"]["version"]
}

/// The image that the console's Deployment has.
fn image(operated: &Operated) -> Value {
    let objects = operated.served.sandbox.objects();
    let console = objects
        .iter()
        .find(|o| o["kind"] == "Deployment" && o["metadata"]["name"] == "ks-console");
    console.unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
}

/// Somebody runs a console of their own.
fn changed_by_hand() -> Value {
    json!({"spec": {"template": {"spec": {"containers": [
        {"name": "ks-console", "image": "example.org/mine:1"}]}}}})
}

fn console() -> ObjectKey {
    ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-console")
}

#[test]
fn it_upgrades_says_so_and_rests() {
    let mut operated = Operated::on(tenants());
    let status = operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    assert_eq!(version(&status), "v3.3.1");
    for (kind, expect) in [
        ("Preflight", "True"),
        ("BackedUp", "True"),
        ("Progressing", "False"),
        ("Available", "True"),
        ("Degraded", "False"),
        ("Drifted", "False"),
    ] {
        let found = condition(&status, kind).unwrap_or_else(|| panic!("no {kind}"));
        assert_eq!(found["status"], expect, "{found}");
        assert!(found["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    }
    assert_eq!(status["components"][0]["state"], "Running");
    assert_eq!(status["components"][0]["ready"], "3/3");
    assert!(
        status["stages"]
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["state"] == "Done")
    );
    assert_eq!(status["plan"]["losePermissions"], 6);
    assert_eq!(status["specSHA256"].as_str().unwrap().len(), 64);
    // What upstream writes is there as well.
    assert_eq!(status["core"]["status"], "enabled");
    assert_eq!(status["monitoring"]["status"], "enabled");

    // It looks once more, since its own writes changed what it watches, and then there is nothing to write.
    std::thread::sleep(Duration::from_secs(4));
    let before = operated.platform();
    let configuration = operated.configuration();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(operated.platform(), before);
    assert_eq!(operated.configuration(), configuration);

    let events: Vec<Value> = operated
        .served
        .sandbox
        .objects()
        .iter()
        .filter(|o| o["kind"] == "Event")
        .map(|o| o["reason"].clone())
        .collect();
    for reason in ["Upgrading", "Upgraded"] {
        assert!(events.contains(&reason.into()), "{reason}: {events:?}");
    }
    let said = operated.end();
    for words in [
        "task core status is successful  (1/4)",
        "Welcome to KubeSphere!",
        "Account: admin\n",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
}

#[test]
fn hostile_settings_leave_the_platform_untouched() {
    let junk = "junk".repeat(1 << 18);
    let cases = [
        (
            json!({"etcd": {"port": {"a": []}}}),
            "etcd.port",
            "InvalidSetting",
        ),
        (json!({"etcd": {"port": &junk}}), "etcd.port", "InvalidSetting"),
        (json!({"common": [1, 2]}), "common", "InvalidSetting"),
        (
            json!({"authentication": {"jwtSecret": ["Sup3rSecretValue"]}}),
            "authentication.jwtSecret",
            "InvalidSetting",
        ),
        (
            json!({"multicluster": {"clusterRole": "{{ 7 * 7 }}"}}),
            "multicluster.clusterRole",
            "InvalidSetting",
        ),
        (
            json!({"teleporter": {"enabled": true}}),
            "teleporter",
            "UnknownComponent",
        ),
    ];
    for (spec, path, reason) in cases {
        let mut operated = Operated::on(tenants_but(|objects| {
            let configuration = objects.iter_mut().find(|o| o["kind"] == "ClusterConfiguration");
            let configuration = configuration.unwrap();
            for (name, value) in spec.as_object().unwrap() {
                configuration["spec"][name] = value.clone();
            }
        }));
        let before = operated.platform();
        let status = operated.wait_for("Degraded", "True");
        let degraded = condition(&status, "Degraded").unwrap();
        assert_eq!(degraded["reason"], reason, "{degraded}");
        let message = degraded["message"].as_str().unwrap();
        assert!(message.contains(path) && message.len() < 1200, "{message}");
        assert_eq!(
            condition(&status, "Preflight").unwrap()["status"],
            "False",
            "{path}"
        );
        assert_eq!(status["phase"], "Blocked");
        assert_eq!(operated.platform(), before, "{path}");
        let text = status.to_string();
        assert!(
            text.len() < 10_000 && !text.contains("Sup3rSecretValue"),
            "{text}"
        );
        let said = operated.end();
        assert!(said.contains(path) && said.len() < 10_000, "{}", said.len());
        assert!(!said.contains("Sup3rSecretValue"), "{said}");
    }
}

/// Texts are texts: nothing in them is a template, another document, or another key.
#[test]
fn texts_are_not_rendered_and_junk_is_carried_along() {
    let image = "{{ 7 * 7 }}{% for x in y %}\"\n---\nkind: Pod\n# ";
    let junk: serde_json::Map<String, Value> = (0..20_000)
        .map(|n| (format!("junk{n}"), "{{ release.version }}".into()))
        .collect();
    let mut operated = Operated::on(tenants_but(|objects| {
        let configuration = objects.iter_mut().find(|o| o["kind"] == "ClusterConfiguration");
        let spec = &mut configuration.unwrap()["spec"];
        spec["terminal"] = json!({"image": image});
        spec["junk"] = junk.clone().into();
    }));
    let pods = |operated: &Operated| {
        let objects = operated.served.sandbox.objects();
        objects.iter().filter(|o| o["kind"] == "Pod").count()
    };
    let before = pods(&operated);
    let status = operated.wait_for("Available", "True");
    assert_eq!(version(&status), "v3.3.1");
    let objects = operated.served.sandbox.objects();
    let config = objects
        .iter()
        .find(|o| o["metadata"]["name"] == "kubesphere-config")
        .unwrap();
    let text = config["data"]["kubesphere.yaml"].as_str().unwrap();
    let document = object::parse_documents(text).unwrap().pop().unwrap();
    assert_eq!(document["terminal"]["image"], image);
    assert_eq!(operated.configuration()["spec"]["junk"], Value::from(junk));
    assert_eq!(pods(&operated), before);
    assert!(operated.end().len() < 30_000);
}

#[test]
fn it_waits_for_approval_where_that_is_asked_for() {
    let mut operated = Operated::on(tenants_but(|objects| {
        let configuration = objects.iter_mut().find(|o| o["kind"] == "ClusterConfiguration");
        configuration.unwrap()["metadata"]["annotations"][format!("{SPEC}/approval")] = "manual".into();
    }));
    let before = operated.platform();
    let status = operated.wait("a plan", |now| now["status"]["phase"] == "AwaitingApproval");
    let digest = status["plan"]["digest"].as_str().unwrap().to_owned();
    operated.annotate("approved-plan", "another");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        operated.platform(),
        before,
        "nothing is written before it is approved"
    );
    let objects = operated.served.sandbox.objects();
    let plan = objects
        .iter()
        .find(|o| o["metadata"]["name"] == "ks-installer-plan")
        .unwrap();
    assert_eq!(plan["data"]["digest"], *digest);
    let impact = plan["data"]["access-impact.txt"].as_str().unwrap();
    assert!(impact.contains("alice"), "{impact}");

    operated.annotate("approved-plan", digest);
    let status = operated.wait_for("Available", "True");
    assert_eq!(version(&status), "v3.3.1");
    operated.wait("used up", |now| {
        now["metadata"]["annotations"][format!("{SPEC}/approved-plan")].is_null()
    });
    operated.end();
}

#[test]
fn drift_is_told_and_put_back_only_where_that_is_asked_for() {
    let mut operated = Operated::on(upgraded());
    operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    let released = image(&operated);
    operated.patch(&console(), &changed_by_hand());
    let status = operated.wait_for("Drifted", "True");
    let drifted = condition(&status, "Drifted").unwrap();
    assert!(
        drifted["message"].as_str().unwrap().contains("ks-console"),
        "{drifted}"
    );
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(image(&operated), "example.org/mine:1", "it stays");

    operated.annotate("drift", "overwrite");
    operated.wait_for("Drifted", "False");
    assert_eq!(image(&operated), released);
    let said = operated.end();
    assert!(
        said.contains("drift: changed since the release was installed"),
        "{said}"
    );
}

#[test]
fn an_edit_is_followed_and_overwrites_nothing() {
    let mut operated = Operated::on(upgraded());
    operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    operated.patch(&console(), &changed_by_hand());
    operated.wait_for("Drifted", "True");
    operated.edit(&json!({"spec": {"common": {"core": {"console": {"port": 31234}}}}}));
    let port = |operated: &Operated| {
        let objects = operated.served.sandbox.objects();
        let service = objects
            .iter()
            .find(|o| o["kind"] == "Service" && o["metadata"]["name"] == "ks-console");
        service.unwrap()["spec"]["ports"][0]["nodePort"].clone()
    };
    operated.wait("followed", |_| port(&operated) == 31234);
    operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    assert_eq!(image(&operated), "example.org/mine:1");
    // A mistake and its correction overwrite nothing, either.
    operated.edit(&json!({"spec": {"etcd": {"port": "many"}}}));
    operated.wait_for("Degraded", "True");
    operated.edit(&json!({"spec": {"etcd": {"port": 2379}}}));
    operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    let status = operated.wait_for("Degraded", "False");
    assert_eq!(condition(&status, "Drifted").unwrap()["status"], "True");
    assert_eq!(image(&operated), "example.org/mine:1");
    operated.end();
}

#[test]
fn commands_hand_over_to_it() {
    let mut operated = Operated::on(tenants_but(|objects| {
        let configuration = objects.iter_mut().find(|o| o["kind"] == "ClusterConfiguration");
        configuration.unwrap()["metadata"]["annotations"][format!("{SPEC}/approval")] = "manual".into();
    }));
    operated.wait("a plan", |now| now["status"]["phase"] == "AwaitingApproval");
    let refused = operated.served.run(&["upgrade", "--yes", "--drift", "keep"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.err.contains("--drift") && refused.err.contains("--replicas=0"),
        "{refused:?}"
    );

    let mut follower = operated.served.spawn_to(&["status", "--watch"], "watch.log");
    let outcome = operated.served.run(&["upgrade", "--yes", "-o", "json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let outcome = outcome.json();
    assert_eq!(
        (&outcome["upgraded"], &outcome["by"], &outcome["to"]),
        (&json!(true), &json!("operator"), &json!("v3.3.1"))
    );
    assert!(follower.wait().unwrap().success());
    let watched = std::fs::read_to_string(operated.served.installer.path("watch.log")).unwrap();
    assert!(
        watched.contains("operator: ") && watched.contains("done"),
        "{watched}"
    );

    // Back again: the operator must not go forward by itself.
    let back = operated.served.run(&["rollback", "--yes"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(back.err.contains("waits for approval"), "{back:?}");
    let status = operated.wait("a plan", |now| now["status"]["phase"] == "AwaitingApproval");
    assert_eq!(version(&status), "v3.2.1");
    let now = operated.served.run(&["status"]);
    assert!(now.out.contains("Operator    AwaitingApproval"), "{now:?}");
    operated.end();
}

#[test]
fn one_that_stands_by_takes_over() {
    let mut first = Operated::on(tenants());
    first.wait("at rest", |now| now["status"]["phase"] == "Running");
    let second = first
        .served
        .spawn_to(&[ARGUMENTS, &["--log-format", "json"]].concat(), "second.log");
    let path = first.served.installer.path("second.log");
    let said = |words: &str| {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains(words) {
                return text;
            }
            assert!(begin.elapsed() < LIMIT, "{words:?} is not in:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    said("stands by");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    first.child = second;
    first.log = "second.log";
    let log = said("this replica leads");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["timestamp"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
    first.edit(&json!({"spec": {"common": {"core": {"console": {"port": 31234}}}}}));
    first.wait("followed", |now| now["status"]["phase"] == "Upgrading");
    first.wait("at rest", |now| now["status"]["phase"] == "Running");
    first.end();
}

#[test]
fn a_rollout_that_fails_is_told_and_goes_on_when_it_can() {
    let sandbox = tenants();
    sandbox.afflict(sandbox::faults::Trouble::UnpullableImage {
        image: "*:v3.3.1".into(),
    });
    let mut operated = Operated::on(sandbox);
    let failed = |status: &Value| {
        condition(status, "Degraded").is_some_and(|c| c["status"] == "True" && c["reason"] == "RunFailed")
    };
    let status = operated.wait("told", |now| failed(&now["status"]));
    let message = condition(&status, "Degraded").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("cannot be pulled") && message.contains("pod ks-"),
        "{message}"
    );
    assert_eq!(version(&status), "v3.2.1");
    // It tries again as soon as somebody edits something; the backup to go back to is the first one.
    let backups = |operated: &Operated| -> Vec<String> {
        let objects = operated.served.sandbox.objects();
        let labels = objects
            .iter()
            .filter_map(|o| o["metadata"]["labels"]["ks-installer.kubesphere.io/backup"].as_str());
        labels
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let first = backups(&operated);
    assert_eq!(first.len(), 1);
    for port in 31230..31235 {
        let before = operated.log().matches("Backup\n").count();
        operated.edit(&json!({"spec": {"common": {"core": {"console": {"port": port}}}}}));
        operated.wait("tried again", |now| {
            failed(&now["status"]) && operated.log().matches("Backup\n").count() > before
        });
    }
    operated.served.sandbox.heal();
    operated.edit(&json!({"spec": {"common": {"core": {"console": {"port": 31240}}}}}));
    let status = operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    assert_eq!(version(&status), "v3.3.1");
    assert_eq!(condition(&status, "Degraded").unwrap()["status"], "False");
    // Of the tries the last three are kept.
    operated.wait("tidied up", |_| backups(&operated).len() == 4);
    assert!(backups(&operated).contains(&first[0]), "{first:?}");
    let back = operated.served.run(&["rollback", "--yes", "-o", "json"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(back.json()["to"], "v3.2.1");
    operated.end();
}
