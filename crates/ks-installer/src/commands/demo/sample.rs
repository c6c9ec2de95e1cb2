//! The sample platform: a cluster with the previous release and a dozen users.

use access::{AGGREGATION, Catalog, DEVOPS_PROJECT, Level, WORKSPACE};
use anyhow::{Context as _, anyhow};
use object::Object;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const TENANTS: &str = include_str!("tenants.yaml");
const IAM: &str = "iam.kubesphere.io/v1alpha2";
const RBAC: &str = "rbac.authorization.k8s.io";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tenants {
    users: Vec<User>,
    workspaces: Vec<Workspace>,
    roles: Vec<CustomRole>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    name: String,
    /// GlobalRole
    platform: String,
    /// ClusterRole
    #[serde(default)]
    cluster: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workspace {
    name: String,
    /// User to WorkspaceRole.
    members: BTreeMap<String, String>,
    projects: Vec<Project>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Project {
    name: String,
    #[serde(default)]
    devops: bool,
    /// User to Role.
    members: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomRole {
    kind: String,
    name: String,
    alias: String,
    #[serde(default)]
    workspace: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    templates: Vec<String>,
    #[serde(default)]
    rules: Vec<Value>,
}

/// What a cluster has before KubeSphere comes: a StorageClass, the namespace, and the old installer with the
/// ClusterConfiguration that it was given. `version` is the release's.
pub(super) fn before_installation(version: &str) -> anyhow::Result<Vec<Value>> {
    let configuration = object::parse_documents(include_str!("cluster-configuration.yaml"))
        .map_err(|error| anyhow!("cluster-configuration.yaml: {error}"))?;
    let selector = json!({"app": "ks-install"});
    let mut objects = vec![
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "demo.example.com/none",
            "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubesphere-system"}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "ks-installer", "namespace": "kubesphere-system", "labels": selector},
            "spec": {"replicas": 0, "selector": {"matchLabels": selector}, "template": {
                "metadata": {"labels": selector},
                "spec": {"containers": [{"name": "installer", "image": format!("kubesphere/ks-installer:{version}")}]}}}}),
    ];
    objects.extend(configuration);
    Ok(objects)
}

/// The tenants' objects, in the order in which they can be created.
pub(super) fn tenants(catalog: &Catalog) -> anyhow::Result<Vec<Value>> {
    let tenants: Tenants = serde_json::from_value(
        object::parse_documents(TENANTS)
            .map_err(|e| anyhow!("tenants.yaml: {e}"))?
            .pop()
            .unwrap_or_default(),
    )
    .context("tenants.yaml")?;
    let devops: Vec<&str> = tenants
        .workspaces
        .iter()
        .flat_map(|w| &w.projects)
        .filter(|p| p.devops)
        .map(|p| p.name.as_str())
        .collect();
    let mut objects = Vec::new();
    for user in &tenants.users {
        let name = &user.name;
        objects.push(json!({"apiVersion": IAM, "kind": "User",
            "metadata": {"name": name, "finalizers": ["finalizers.kubesphere.io/users"]},
            "spec": {"email": format!("{name}@example.com")}, "status": {"state": "Active"}}));
        objects.push(binding("GlobalRoleBinding", name, &user.platform, &[], None));
        if let Some(role) = &user.cluster {
            objects.push(binding("ClusterRoleBinding", name, role, &[], None));
        }
    }
    for workspace in &tenants.workspaces {
        let name = &workspace.name;
        let manager = workspace.members.keys().next().cloned().unwrap_or_default();
        objects.push(
            json!({"apiVersion": "tenant.kubesphere.io/v1alpha2", "kind": "WorkspaceTemplate",
            "metadata": {"name": name}, "spec": {"placement": {"clusterSelector": {}},
            "template": {"spec": {"manager": manager, "networkIsolation": false}}}}),
        );
        objects.push(
            json!({"apiVersion": "tenant.kubesphere.io/v1alpha1", "kind": "Workspace",
            "metadata": {"name": name, "finalizers": ["finalizers.tenant.kubesphere.io"]},
            "spec": {"manager": manager, "networkIsolation": false}}),
        );
        for base in role_bases(catalog, "WorkspaceRole") {
            objects.push(instance(base, Some(name), None));
        }
        for (user, role) in &workspace.members {
            objects.push(binding(
                "WorkspaceRoleBinding",
                user,
                role,
                &[(WORKSPACE, name)],
                None,
            ));
        }
        for project in &workspace.projects {
            let mut labels = json!({(WORKSPACE): name, "kubesphere.io/namespace": project.name});
            if project.devops {
                labels[DEVOPS_PROJECT] = project.name.as_str().into();
            }
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": project.name, "labels": labels}}));
            let scope = if project.devops {
                "scope.kubesphere.io/devops"
            } else {
                "scope.kubesphere.io/namespace"
            };
            for base in role_bases(catalog, "Role").filter(|base| base.label(scope).is_some()) {
                objects.push(instance(base, None, Some(&project.name)));
            }
            for (user, role) in &project.members {
                objects.push(binding("RoleBinding", user, role, &[], Some(&project.name)));
            }
        }
    }
    for role in &tenants.roles {
        objects.push(custom_role(catalog, role, &devops)?);
    }
    Ok(objects)
}

fn role_bases<'a>(catalog: &'a Catalog, kind: &'a str) -> impl Iterator<Item = &'a Object> {
    catalog
        .objects()
        .filter(move |object| object.kind() == "RoleBase" && object.get_str("/role/kind") == Some(kind))
}

/// The role that KubeSphere's controllers make from a RoleBase in a workspace or namespace.
fn instance(base: &Object, workspace: Option<&str>, namespace: Option<&str>) -> Value {
    let mut role = base.get("/role").cloned().unwrap_or_default();
    if let Some(workspace) = workspace {
        let name = role["metadata"]["name"].as_str().unwrap_or_default();
        role["metadata"]["name"] = format!("{workspace}-{name}").into();
        role["metadata"]["labels"][WORKSPACE] = workspace.into();
    }
    if let Some(namespace) = namespace {
        role["metadata"]["namespace"] = namespace.into();
    }
    role
}

fn binding(kind: &str, user: &str, role: &str, labels: &[(&str, &str)], namespace: Option<&str>) -> Value {
    let is_rbac = kind == "RoleBinding" || kind == "ClusterRoleBinding";
    let (api_version, group) = if is_rbac {
        (format!("{RBAC}/v1"), RBAC)
    } else {
        (IAM.to_owned(), IAM)
    };
    let mut all = Map::from_iter([("iam.kubesphere.io/user-ref".to_owned(), Value::from(user))]);
    all.extend(
        labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value))),
    );
    let mut binding = json!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": format!("{user}-{role}"), "labels": all},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        "roleRef": {"apiGroup": group, "kind": kind.trim_end_matches("Binding"), "name": role}});
    if let Some(namespace) = namespace {
        binding["metadata"]["namespace"] = namespace.into();
    }
    binding
}

fn custom_role(catalog: &Catalog, role: &CustomRole, devops: &[&str]) -> anyhow::Result<Value> {
    let level = match (role.kind.as_str(), &role.namespace) {
        ("GlobalRole", _) => Level::Platform,
        ("WorkspaceRole", _) => Level::Workspace,
        ("ClusterRole", _) => Level::Cluster,
        (_, Some(namespace)) if devops.contains(&namespace.as_str()) => Level::DevopsProject,
        _ => Level::Project,
    };
    let mut rules = Vec::new();
    for name in &role.templates {
        let template = catalog.template(level, name).with_context(|| {
            format!(
                "tenants.yaml: role {} names {name}, which is no template",
                role.name
            )
        })?;
        for rule in &template.rules {
            rules.push(serde_json::to_value(rule)?);
        }
    }
    rules.extend(role.rules.iter().cloned());
    let is_rbac = matches!(level, Level::Cluster | Level::Project | Level::DevopsProject);
    let mut object = json!({"apiVersion": if is_rbac { format!("{RBAC}/v1") } else { IAM.to_owned() },
        "kind": role.kind, "rules": rules,
        "metadata": {"name": role.name, "labels": role.labels, "annotations": {
            (AGGREGATION): serde_json::to_string(&role.templates)?,
            "kubesphere.io/alias-name": role.alias, "kubesphere.io/creator": "admin"}}});
    if let Some(workspace) = &role.workspace {
        object["metadata"]["labels"][WORKSPACE] = workspace.as_str().into();
    }
    if let Some(namespace) = &role.namespace {
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    Ok(object)
}
