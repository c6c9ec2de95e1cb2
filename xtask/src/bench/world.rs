//! A large cluster's access objects, made by a seed: the same every time.

use std::io::{self, Write};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) users: usize,
    pub(super) workspaces: usize,
    pub(super) projects: usize,
    pub(super) custom_roles: usize,
    pub(super) bindings: usize,
}

impl Size {
    /// What is wanted of the measurements.
    pub(super) const LARGE: Self = Self {
        users: 50_000,
        workspaces: 5_000,
        projects: 20_000,
        custom_roles: 100_000,
        bindings: 200_000,
    };
}

/// What is made depends on the seed alone.
#[derive(Debug)]
pub(super) struct Random(StdRng);

impl Random {
    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }
}

/// A template of the release: its name and rules.
pub(super) type Template = (String, Value);

/// The templates of the levels that custom roles are made on.
#[derive(Debug, Default)]
pub(super) struct Templates {
    pub(super) platform: Vec<Template>,
    pub(super) workspace: Vec<Template>,
    pub(super) project: Vec<Template>,
}

const IAM: &str = "iam.kubesphere.io/v1alpha2";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
const AGGREGATION: &str = "iam.kubesphere.io/aggregation-roles";
/// People make custom roles in a few hundred ways, however many roles there are.
const SHAPES: usize = 300;

/// A way to make a role: the list of templates, and the rules.
struct Shape {
    list: String,
    rules: Value,
}

fn shapes(random: &mut Random, templates: &[Template]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for number in 0..SHAPES {
        let mut names = Vec::new();
        let mut rules = Vec::new();
        for (name, given) in templates {
            if random.below(3) == 0 {
                names.push(name.as_str());
                rules.extend(given.as_array().into_iter().flatten().cloned());
            }
        }
        if random.below(4) == 0 {
            rules.push(json!({"apiGroups": ["custom.example.org"], "resources": [format!("things{number}")], "verbs": ["*"]}));
        }
        if random.below(8) == 0 && !rules.is_empty() {
            rules.remove(random.below(rules.len()));
        }
        shapes.push(Shape {
            list: json!(names).to_string(),
            rules: json!(rules),
        });
    }
    shapes
}

/// Writes the cluster, one object a line: the release's own objects first, then what people made.
///
/// # Errors
/// `out` cannot be written.
pub(super) fn write(
    out: &mut impl Write,
    size: Size,
    seed: u64,
    released: impl IntoIterator<Item = Value>,
    templates: &Templates,
) -> io::Result<()> {
    let random = &mut Random(StdRng::seed_from_u64(seed));
    let mut put = |object: Value| writeln!(out, "{object}");
    for object in released {
        put(object)?;
    }
    put(
        json!({"apiVersion": "installer.kubesphere.io/v1alpha1", "kind": "ClusterConfiguration",
        "metadata": {"name": "ks-installer", "namespace": "kubesphere-system"},
        "status": {"core": {"version": "v3.2.1", "status": "enabled"}}}),
    )?;
    let workspace = |number: usize| format!("workspace-{number}");
    let project = |number: usize| format!("project-{number}");
    for number in 0..size.users {
        put(
            json!({"apiVersion": IAM, "kind": "User", "metadata": {"name": format!("user-{number}")},
            "spec": {"email": format!("user-{number}@example.org")}, "status": {"state": "Active"}}),
        )?;
    }
    for number in 0..size.workspaces {
        put(
            json!({"apiVersion": "tenant.kubesphere.io/v1alpha1", "kind": "Workspace",
            "metadata": {"name": workspace(number)}, "spec": {"manager": format!("user-{}", number % size.users.max(1))}}),
        )?;
    }
    for number in 0..size.projects {
        put(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": project(number),
            "labels": {"kubesphere.io/workspace": workspace(number % size.workspaces.max(1))}}}),
        )?;
    }
    // A tenth of the custom roles is the platform's, half the workspaces', the rest the projects'.
    let shapes = [&templates.platform, &templates.workspace, &templates.project]
        .map(|templates| shapes(random, templates));
    let mut roles: [Vec<(usize, String)>; 3] = Default::default();
    for number in 0..size.custom_roles {
        let level = match number % 10 {
            0 => 0,
            1..=5 => 1,
            _ => 2,
        };
        let shape = &shapes[level][random.below(SHAPES)];
        let name = format!("custom-{number}");
        let place = random.below([1, size.workspaces, size.projects][level].max(1));
        let (version, kind) = [(IAM, "GlobalRole"), (IAM, "WorkspaceRole"), (RBAC, "Role")][level];
        let mut role = json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": name, "annotations": {AGGREGATION: shape.list, "kubesphere.io/creator": "admin",
                "kubesphere.io/alias-name": format!("Custom {number}")}, "labels": {"team": "x"}},
            "rules": shape.rules});
        match level {
            1 => role["metadata"]["labels"]["kubesphere.io/workspace"] = workspace(place).into(),
            2 => role["metadata"]["namespace"] = project(place).into(),
            _ => {}
        }
        put(role)?;
        roles[level].push((place, name));
    }
    for number in 0..size.bindings {
        let user = number % size.users.max(1);
        let level = match number / size.users.max(1) {
            // Everybody has a platform role.
            0 => 0,
            round if round % 2 == 1 => 1,
            _ => 2,
        };
        let built_in = [
            "platform-regular",
            "platform-regular",
            "users-manager",
            "workspaces-manager",
        ];
        let pick = random.below(roles[level].len().max(1));
        let custom = roles[level]
            .get(pick)
            .filter(|_| level != 0 || random.below(2) == 0);
        let (place, role) = match custom {
            Some((place, role)) => (*place, role.clone()),
            None => (0, built_in[random.below(4)].to_owned()),
        };
        let (version, kind) = [(IAM, "GlobalRole"), (IAM, "WorkspaceRole"), (RBAC, "Role")][level];
        let mut binding = json!({"apiVersion": version, "kind": format!("{kind}Binding"),
            "metadata": {"name": format!("binding-{number}"), "labels": {"iam.kubesphere.io/user-ref": format!("user-{user}")}},
            "roleRef": {"apiGroup": version, "kind": kind, "name": role},
            "subjects": [{"apiGroup": version, "kind": "User", "name": format!("user-{user}")}]});
        match level {
            1 => binding["metadata"]["labels"]["kubesphere.io/workspace"] = workspace(place).into(),
            2 => binding["metadata"]["namespace"] = project(place).into(),
            _ => {}
        }
        put(binding)?;
    }
    Ok(())
}

/// Writes questions about such a cluster, one a line.
///
/// # Errors
/// `out` cannot be written.
pub(super) fn write_questions(out: &mut impl Write, size: Size, count: usize, seed: u64) -> io::Result<()> {
    let random = &mut Random(StdRng::seed_from_u64(seed));
    let verbs = ["get", "list", "create", "delete"];
    let resources = [
        ("iam.kubesphere.io", "users"),
        ("iam.kubesphere.io", "workspacemembers"),
        ("", "pods"),
        ("apps", "deployments"),
        ("rbac.authorization.k8s.io", "roles"),
        ("devops.kubesphere.io", "pipelines"),
    ];
    for _ in 0..count {
        let (group, resource) = resources[random.below(resources.len())];
        let (mut workspace, mut namespace) = (String::new(), String::new());
        let scope = ["global", "cluster", "workspace", "namespace"][random.below(4)];
        match scope {
            "workspace" => workspace = format!("workspace-{}", random.below(size.workspaces.max(1))),
            "namespace" => namespace = format!("project-{}", random.below(size.projects.max(1))),
            _ => {}
        }
        writeln!(
            out,
            "{}",
            json!({"user": format!("user-{}", random.below(size.users.max(1))), "groups": [], "verb": verbs[random.below(4)],
                "apiGroup": group, "resource": resource, "subresource": "", "name": "", "scope": scope,
                "workspace": workspace, "namespace": namespace, "devops": "", "path": ""})
        )?;
    }
    Ok(())
}
