//! The tenants of a real v3.2.1 cluster after the upgrade, one by one. What must become of each was worked out by hand.

use object::ObjectKey;
use serde_json::{Value, json};

use crate::support::{
    self,
    state::{RBAC, State, iam, role},
};

const AGGREGATION: &str = "iam.kubesphere.io/aggregation-roles";

struct Tenants {
    before: State,
    after: State,
}

fn tenants() -> Tenants {
    Tenants {
        before: State::of(&support::tenants()),
        after: State::of(&support::upgraded()),
    }
}

/// The object without what every write changes.
fn kept(value: &Value) -> Value {
    let mut value = value.clone();
    let metadata = value["metadata"].as_object_mut().unwrap();
    for name in ["managedFields", "resourceVersion", "generation"] {
        metadata.remove(name);
    }
    value
}

fn rules(role: &Value) -> Vec<Value> {
    role["rules"].as_array().cloned().unwrap_or_default()
}

fn templates(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("role-template-{name}")).collect()
}

impl Tenants {
    /// UID, labels, other annotations, finalizers, owners, creation time: all but list and rules is as it was.
    #[track_caller]
    fn check_rest(&self, key: &ObjectKey) {
        let (before, after) = (self.before.get(key), self.after.get(key));
        let mut expect = kept(before);
        expect["metadata"]["annotations"][AGGREGATION] =
            after["metadata"]["annotations"][AGGREGATION].clone();
        expect["rules"] = after["rules"].clone();
        assert_eq!(expect, kept(after), "{key}");
    }

    #[track_caller]
    fn check_list(&self, key: &ObjectKey, expect: &[&str]) {
        let list = self.after.get(key)["metadata"]["annotations"][AGGREGATION]
            .as_str()
            .unwrap();
        let names: Vec<String> = serde_json::from_str(list).unwrap();
        assert_eq!(names, templates(expect), "{key}");
    }

    /// The role's list is `names`, its rules are those of these templates as they are now, then `extra`.
    #[track_caller]
    fn check(&self, key: &ObjectKey, names: &[&str], extra: &[Value]) {
        self.check_rest(key);
        self.check_list(key, names);
        let template = |name: &String| ObjectKey {
            name: name.clone(),
            ..key.clone()
        };
        let expect: Vec<Value> = templates(names)
            .iter()
            .filter_map(|name| self.after.find(&template(name)))
            .flat_map(rules)
            .chain(extra.iter().cloned())
            .collect();
        assert_eq!(rules(self.after.get(key)), expect, "{key}");
    }

    /// The role's list is `names`, and its rules are as before without `gone`.
    #[track_caller]
    fn check_less(&self, key: &ObjectKey, names: &[&str], gone: &[Value]) {
        self.check_rest(key);
        self.check_list(key, names);
        let before = rules(self.before.get(key));
        assert!(
            gone.iter().all(|rule| before.contains(rule)),
            "{key} had {before:?}"
        );
        let expect: Vec<Value> = before.into_iter().filter(|rule| !gone.contains(rule)).collect();
        assert_eq!(rules(self.after.get(key)), expect, "{key}");
    }

    #[track_caller]
    fn check_unchanged(&self, key: &ObjectKey) {
        assert_eq!(self.before.get(key), self.after.get(key), "{key}");
    }
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
}

fn global(name: &str) -> ObjectKey {
    iam("GlobalRole", name)
}

fn workspace(name: &str) -> ObjectKey {
    iam("WorkspaceRole", name)
}

#[test]
fn bindings_to_removed_roles_lead_to_platform_regular_and_nothing_else_of_them_changes() {
    let tenants = tenants();
    for binding in [
        "alice-users-manager",
        "adam-users-manager",
        "bob-workspaces-manager",
    ] {
        let key = iam("GlobalRoleBinding", binding);
        let mut expect = kept(tenants.before.get(&key));
        expect["roleRef"]["name"] = "platform-regular".into();
        assert_eq!(expect, kept(tenants.after.get(&key)));
    }
    let adam = tenants.after.get(&iam("GlobalRoleBinding", "adam-users-manager"));
    assert_eq!(adam["metadata"]["labels"]["team"], "sec");
    assert_eq!(
        adam["metadata"]["annotations"]["kubesphere.io/description"],
        "temporary delegate"
    );
}

/// Whether a binding is of the release's monitoring, none of which is a tenant's.
fn is_monitoring(key: &ObjectKey) -> bool {
    key.kind == "ClusterRoleBinding" && key.name.starts_with("kubesphere-")
        || key.namespace.as_deref() == Some("kubesphere-monitoring-system")
        || key.namespace.as_deref() == Some("kube-system") && key.name == "prometheus-k8s"
}

#[test]
fn all_other_bindings_are_as_they_were() {
    let tenants = tenants();
    let rebound = [
        "alice-users-manager",
        "adam-users-manager",
        "bob-workspaces-manager",
    ];
    let mut seen = 0;
    for (key, value) in &tenants.before.0 {
        if key.kind.ends_with("RoleBinding") && !rebound.contains(&key.name.as_str()) {
            let after = tenants.after.get(key);
            if is_monitoring(key) {
                // The release's own, whose labels tell the version: they bind the same.
                for field in ["roleRef", "subjects"] {
                    assert_eq!(value[field], after[field], "{field} of {key}");
                }
                assert_eq!(value["metadata"]["uid"], after["metadata"]["uid"], "{key}");
            } else {
                assert_eq!(value.as_ref(), after, "{key}");
            }
            seen += 1;
        }
    }
    assert!(seen > 70, "{seen}");
}

#[test]
fn the_removed_roles_are_gone_and_nothing_refers_to_them() {
    let tenants = tenants();
    for name in ["users-manager", "workspaces-manager"] {
        assert!(tenants.before.find(&global(name)).is_some());
        assert!(tenants.after.find(&global(name)).is_none());
    }
    for (key, value) in &tenants.after.0 {
        if !key.kind.ends_with("RoleBinding") {
            continue;
        }
        let kind = value["roleRef"]["kind"].as_str().unwrap();
        let is_there = tenants.after.0.keys().any(|there| {
            there.kind == kind
                && value["roleRef"]["name"] == there.name.as_str()
                && (there.namespace.is_none() || there.namespace == key.namespace)
        });
        let was_dangling = tenants.before.find(key).is_some_and(|before| {
            !tenants
                .before
                .0
                .keys()
                .any(|there| there.kind == kind && before["roleRef"]["name"] == there.name.as_str())
        });
        assert!(
            is_there || was_dangling,
            "{key} refers to a {kind} that does not exist"
        );
    }
}

#[test]
fn the_new_platform_role_is_there() {
    let tenants = tenants();
    assert!(
        tenants
            .before
            .find(&global("platform-self-provisioner"))
            .is_none()
    );
    let list = templates(&["create-workspaces"]);
    let role = tenants.after.get(&global("platform-self-provisioner"));
    let names: Vec<String> =
        serde_json::from_str(role["metadata"]["annotations"][AGGREGATION].as_str().unwrap()).unwrap();
    assert!(list.iter().all(|name| names.contains(name)), "{names:?}");
    assert!(!rules(role).is_empty());
}

#[test]
fn global_roles_lose_what_is_revoked_and_nothing_else() {
    let tenants = tenants();
    let badges = rule("custom.example.org", "badges", &["*"]);
    tenants.check(
        &global("hr-desk"),
        &["view-basic", "view-users", "view-roles"],
        &[badges],
    );
    let desk = tenants.after.get(&global("hr-desk"));
    assert_eq!(
        desk["metadata"]["labels"],
        json!({"app.kubernetes.io/managed-by": "gitops", "team": "hr"})
    );
    assert_eq!(
        desk["metadata"]["annotations"]["kubesphere.io/alias-name"],
        "HR desk alias"
    );
    tenants.check(&global("roles-only"), &[], &[]);
    tenants.check(&global("ghost-template"), &["view-nothing", "view-basic"], &[]);
    tenants.check_unchanged(&global("bad-json"));
}

#[test]
fn a_role_without_revoked_templates_follows_its_templates() {
    let tenants = tenants();
    let auditor = global("platform-auditor");
    tenants.check(&auditor, &["view-basic", "view-users", "view-workspaces"], &[]);
    assert_ne!(
        rules(tenants.before.get(&auditor)),
        rules(tenants.after.get(&auditor))
    );
    tenants.check(&workspace("ws2-plain"), &["view-basic", "view-projects"], &[]);
    tenants.check_unchanged(&role("proj2", "plain"));
}

#[test]
fn workspace_roles_lose_what_is_revoked_whatever_they_are_called() {
    let tenants = tenants();
    tenants.check(
        &workspace("ws1-member-manager"),
        &["view-basic", "view-members"],
        &[],
    );
    let labels = &tenants.after.get(&workspace("ws1-member-manager"))["metadata"]["labels"];
    assert!(
        labels["team"].is_string() && labels["cost-center"].is_string(),
        "{labels}"
    );
    tenants.check(
        &workspace("ws1-billing-admin"),
        &["view-basic", "view-members"],
        &[],
    );
    tenants.check(&workspace("ws1-night-viewer"), &["view-basic"], &[]);
    let things = rule("custom.example.org", "things", &["get", "list"]);
    tenants.check(&workspace("ws1-hand-edited"), &["view-basic"], &[things]);
    tenants.check(&workspace("ws2-groups"), &["view-groups"], &[]);
    tenants.check(&workspace("ws2-only-deprecated"), &[], &[]);
}

#[test]
fn project_roles_lose_what_is_revoked_and_keep_what_was_added_by_hand() {
    let tenants = tenants();
    let members = json!({"apiGroups": ["*"], "resources": ["members", "rolebindings"], "verbs": ["*"]});
    tenants.check_less(
        &role("proj1", "deployer"),
        &["view-basic", "view-app-workloads", "manage-app-workloads"],
        &[members],
    );
    let rollouts = rule("custom.example.org", "rollouts", &["*"]);
    assert!(rules(tenants.after.get(&role("proj1", "deployer"))).contains(&rollouts));
    tenants.check_less(
        &role("proj1", "release-admin"),
        &["view-basic"],
        &[rule("*", "roles", &["*"])],
    );
}

#[test]
fn a_cluster_role_follows_its_templates_names_and_gains_no_rule() {
    let tenants = tenants();
    tenants.check_less(
        &ObjectKey::cluster(RBAC, "ClusterRole", "cluster-ops"),
        &["view-nodes", "view-components", "manage-network-resources"],
        &[],
    );
}

#[test]
fn workspaces_projects_users_and_their_built_in_roles_are_as_they_were() {
    let tenants = tenants();
    let is_built_in = |key: &ObjectKey| {
        let of_workspace = ["admin", "regular", "self-provisioner", "viewer"]
            .iter()
            .any(|role| ["ws1", "ws2"].iter().any(|ws| key.name == format!("{ws}-{role}")));
        match key.kind.as_str() {
            "WorkspaceRole" => of_workspace,
            "Role" => {
                ["proj1", "proj2"].contains(&key.namespace.as_deref().unwrap_or_default())
                    && !["deployer", "release-admin"].contains(&key.name.as_str())
            }
            "Namespace" | "User" | "Workspace" | "WorkspaceTemplate" => true,
            _ => false,
        }
    };
    let mut seen = 0;
    for key in tenants.before.0.keys().filter(|key| is_built_in(key)) {
        tenants.check_unchanged(key);
        seen += 1;
    }
    assert!(seen > 70, "{seen}");
}

#[test]
fn findings_name_what_needs_a_look() {
    let prepared = support::block_on(support::prepare(&support::tenants()));
    let about = |reason: &str| -> Vec<String> {
        let of_reason = prepared.findings().iter().filter(|f| f.reason == reason);
        of_reason
            .filter_map(|f| f.object.as_ref())
            .map(|o| o.name.clone())
            .collect()
    };
    assert_eq!(about("UnreadableAggregation"), ["bad-json"]);
    assert_eq!(about("UnknownTemplate"), ["ghost-template"]);
    assert_eq!(about("TrimmedByHand"), ["cluster-ops"]);
    assert_eq!(prepared.blockers().count(), 0);
}

#[test]
fn who_loses_something_is_said() {
    let prepared = support::block_on(support::prepare(&support::tenants()));
    let plan = prepared.decision.plan.as_ref().unwrap();
    let mut losing: Vec<(&str, String)> = plan
        .impact
        .subjects
        .iter()
        .filter(|subject| !subject.lost.is_empty())
        .map(|subject| (subject.name.as_str(), subject.scope.to_string()))
        .collect();
    losing.sort();
    let expect = [
        ("adam", "platform"),
        ("alice", "platform"),
        ("bob", "platform"),
        ("erin", "project proj1"),
        ("erin", "workspace ws1"),
        ("frank", "platform"),
        ("grace", "workspace ws1"),
    ];
    assert_eq!(losing, expect.map(|(name, scope)| (name, scope.to_owned())));
}

#[test]
fn what_happened_is_held_against_what_this_upgrade_announced() {
    let sandbox = support::tenants();
    let only_take_out = upgrade::Options {
        refresh_templates: false,
        ..upgrade::Options::default()
    };
    let (report, other) = support::block_on(async {
        let cluster = support::client(&sandbox);
        let before = support::prepare(&sandbox).await.snapshot;
        let report = support::upgrade_with(&cluster, only_take_out).await;
        let session = support::session(&cluster, upgrade::Options::default());
        (report, session.verify(Some(&before)).await.unwrap())
    });
    let deviations = |findings: &[upgrade::Finding]| -> Vec<String> {
        let found = findings
            .iter()
            .filter(|finding| finding.reason == "AccessNotAsAnnounced");
        found.map(|finding| finding.message.clone()).collect()
    };
    assert_eq!(deviations(&report.findings), Vec::<String>::new());
    // Who announced that templates' new rules come along has to say that they did not.
    let other = deviations(&other);
    assert!(other.iter().any(|message| message.contains("erin")), "{other:#?}");
}
