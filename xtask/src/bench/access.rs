//! Who may do what on a large cluster: the impact of an upgrade, a million questions, the migration.
//!
//! The cluster is made by a seed, as a file. On a real control plane, what two thousand custom roles cost an upgrade is
//! held against a plain loop that writes as many.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use access::{Catalog, Level};
use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use release::Files;
use serde_json::{Value, json};

use super::world::{self, Size, Templates};
use super::{Bench, Row, Sample, measure_with, number_at, row, spread, writes};
use crate::control_plane::{self, ControlPlane};

const QUESTIONS: usize = 1_000_000;
const OLD: &str = "v3.2.1";
/// Custom roles on the real control plane.
const ROLES: usize = 2_000;
/// Requests that a plain loop has under way at once.
const IN_FLIGHT: usize = 16;

fn catalog() -> anyhow::Result<Catalog> {
    let version = OLD.parse().context("reading the old version")?;
    Ok(release::load_catalog(&Files::embedded(), &version)?.0)
}

fn templates(catalog: &Catalog, level: Level) -> anyhow::Result<Vec<world::Template>> {
    catalog
        .templates(level)
        .map(|template| Ok((template.name.clone(), serde_json::to_value(&template.rules)?)))
        .collect()
}

fn write_world(path: &Path, size: Size) -> anyhow::Result<()> {
    let catalog = catalog()?;
    let templates = Templates {
        platform: templates(&catalog, Level::Platform)?,
        workspace: templates(&catalog, Level::Workspace)?,
        project: templates(&catalog, Level::Project)?,
    };
    let mut out = BufWriter::new(File::create(path).context("making the file of the large cluster")?);
    let released = catalog.objects().map(|object| object.as_value().clone());
    world::write(&mut out, size, 1, released, &templates)?;
    out.flush().context("writing the large cluster")
}

pub(super) fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let size = Size::LARGE;
    (bench.report)("a cluster of many users and roles");
    let (cluster, questions) = (
        bench.folder.join("world.ndjson"),
        bench.folder.join("questions.ndjson"),
    );
    write_world(&cluster, size)?;
    let mut out = BufWriter::new(File::create(&questions).context("making the file of questions")?);
    world::write_questions(&mut out, size, QUESTIONS, 2)?;
    out.flush().context("writing the questions")?;
    let from = cluster.to_string_lossy();
    let Size {
        users,
        workspaces,
        projects,
        custom_roles,
        bindings,
    } = size;

    let impact = bench.repeat("impact", &["access", "impact", "-o", "json", "--from", &from])?;
    let decides: Vec<f64> = impact
        .iter()
        .map(|sample| number_at(sample, "decideSeconds"))
        .collect::<anyhow::Result<_>>()?;
    let (mut whole, mut alone) = (Vec::new(), Vec::new());
    (bench.report)("a million questions");
    for _ in 0..=bench.options.runs {
        let asked = answers(bench, &from, &questions)?;
        let lines = asked.stdout.lines().count();
        if lines != QUESTIONS {
            bail!("{lines} answers to {QUESTIONS} questions");
        }
        let idle = answers(bench, &from, Path::new("/dev/null"))?;
        alone.push(asked.wall.saturating_sub(idle.wall).as_secs_f64() * 1000.0);
        whole.push(asked);
    }
    whole.remove(0);
    alone.remove(0);
    Ok(vec![
        row(
            format!(
                "`access impact` of {users} users, {workspaces} workspaces, {projects} projects, {custom_roles} custom roles, \
                 {bindings} bindings"
            ),
            &impact,
            "< 3 s, < 500 MB",
        )?,
        Row {
            what: "… of which the migration's plan and the impact, without reading and writing".to_owned(),
            time: spread(decides.into_iter().map(|seconds| seconds * 1000.0))?,
            peak: None,
            wanted: "< 2 s",
        },
        row(
            "`access check --batch` of a million questions about the same".to_owned(),
            &whole,
            "",
        )?,
        Row {
            what: "… of which the questions, without reading the cluster".to_owned(),
            time: spread(alone)?,
            peak: None,
            wanted: "< 2 s",
        },
    ])
}

fn answers(bench: &Bench<'_>, from: &str, questions: &Path) -> anyhow::Result<Sample> {
    let questions = File::open(questions).context("opening the questions")?;
    let command = bench.command(&["access", "check", "--batch", "--from", from]);
    measure_with(command, Stdio::from(questions)).context("the questions")
}

/// A custom role that an upgrade changes.
fn role(number: usize, catalog: &Catalog) -> anyhow::Result<Value> {
    let names = [
        "role-template-view-basic",
        "role-template-manage-members",
        "role-template-view-members",
    ];
    let rules = names
        .iter()
        .filter_map(|name| catalog.template(Level::Workspace, name))
        .flat_map(|template| &template.rules)
        .collect::<Vec<_>>();
    Ok(
        json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "WorkspaceRole",
        "metadata": {"name": format!("measured-{number}"), "labels": {"kubesphere.io/workspace": "ws1"},
            // As every stored object has one: to a patch the API server has no object without.
            "uid": format!("00000000-0000-4000-8000-{number:012}"), "creationTimestamp": "2022-10-28T09:00:00Z",
            "annotations": {"iam.kubesphere.io/aggregation-roles": json!(names).to_string()}},
        "rules": serde_json::to_value(rules)?}),
    )
}

/// An upgrade in which only two thousand custom roles are left to be migrated, and a plain loop of PUTs that make of them the
/// same. Just after its definitions an API server has other things to do, and would slow down either.
pub(super) fn measure_migration(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let catalog = catalog()?;
    let roles: Vec<Value> = (0..ROLES)
        .map(|number| role(number, &catalog))
        .collect::<anyhow::Result<_>>()?;
    let (mut migrated, mut plain) = (Vec::new(), Vec::new());
    let control_plane = runtime.block_on(restored(&bench.options.dump, &roles))?;
    let kubeconfig = control_plane.kubeconfig();
    let kubeconfig = kubeconfig.to_string_lossy();
    let api = runtime.block_on(role_api(&control_plane))?;
    let arguments = writes("upgrade", &[], &kubeconfig);
    let old = runtime.block_on(measured_roles(&api))?;
    super::measure(bench.command(&arguments)).context("the upgrade of everything else")?;
    let new = runtime.block_on(measured_roles(&api))?;
    for number in 0..=bench.options.runs {
        (bench.report)(&format!("migration {} of {}", number + 1, bench.options.runs + 1));
        runtime.block_on(set_back(&control_plane, &api, &old))?;
        let sample = super::measure(bench.command(&arguments)).context("the upgrade of roles")?;
        // And the version in the status.
        let expect = format!("{}", ROLES + 1);
        let written = number_at(&sample, "written")?.to_string();
        if written != expect {
            bail!("{written} objects were written in place of {expect}");
        }
        migrated.push(number_at(&sample, "writingSeconds")? * 1000.0);
        runtime.block_on(put(&api, &old))?;
        plain.push(runtime.block_on(put(&api, &new))?.as_secs_f64() * 1000.0);
    }
    migrated.remove(0);
    plain.remove(0);
    Ok(vec![
        Row {
            what: format!(
                "the writing of an `upgrade` that migrates {ROLES} custom WorkspaceRoles on a real API server"
            ),
            time: spread(migrated)?,
            peak: None,
            wanted: "< 1.3 × the next",
        },
        Row {
            what: format!("a plain loop of {ROLES} PUTs that make of them the same, {IN_FLIGHT} at once"),
            time: spread(plain)?,
            peak: None,
            wanted: "",
        },
    ])
}

async fn restored(dump: &Path, roles: &[Value]) -> anyhow::Result<ControlPlane> {
    let mut objects = control_plane::read_dump(dump)?;
    objects.extend(roles.iter().cloned());
    let options = control_plane::Options {
        objects,
        ..control_plane::Options::default()
    };
    let mut started = ControlPlane::start(options).await?;
    started.wait_until_settled(Duration::from_mins(2)).await?;
    Ok(started)
}

async fn role_api(control_plane: &ControlPlane) -> anyhow::Result<Api<DynamicObject>> {
    let client = control_plane.client().await?;
    let kind = GroupVersionKind::gvk("iam.kubesphere.io", "v1alpha2", "WorkspaceRole");
    let resource = ApiResource::from_gvk_with_plural(&kind, "workspaceroles");
    Ok(Api::all_with(client, &resource))
}

/// In the order of their names.
async fn measured_roles(api: &Api<DynamicObject>) -> anyhow::Result<Vec<DynamicObject>> {
    let all = ListParams::default();
    let mut roles = api.list(&all).await.context("listing the roles")?.items;
    roles.retain(|role| role.name_any().starts_with("measured-"));
    roles.sort_by_key(ResourceExt::name_any);
    Ok(roles)
}

/// Has the cluster as if its roles had not been migrated.
async fn set_back(
    control_plane: &ControlPlane,
    roles: &Api<DynamicObject>,
    old: &[DynamicObject],
) -> anyhow::Result<()> {
    put(roles, old).await?;
    let kind = GroupVersionKind::gvk("installer.kubesphere.io", "v1alpha1", "ClusterConfiguration");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clusterconfigurations");
    let client = control_plane.client().await?;
    let api: Api<DynamicObject> = Api::namespaced_with(client, "kubesphere-system", &resource);
    let version = json!({"status": {"core": {"version": OLD}}});
    api.patch("ks-installer", &PatchParams::default(), &Patch::Merge(&version))
        .await
        .context("setting the version back")?;
    Ok(())
}

/// Makes of the roles what `wanted` says; how long the writes took. All roles are read before.
async fn put(api: &Api<DynamicObject>, wanted: &[DynamicObject]) -> anyhow::Result<Duration> {
    let mut roles = measured_roles(api).await?;
    if roles.len() != wanted.len() || wanted.len() != ROLES {
        bail!("{} roles in place of {ROLES}", roles.len());
    }
    for (role, wanted) in roles.iter_mut().zip(wanted) {
        if role.data == wanted.data {
            bail!("nothing is to be changed in {}", role.name_any());
        }
        role.data.clone_from(&wanted.data);
        role.metadata.annotations.clone_from(&wanted.metadata.annotations);
    }
    let begin = Instant::now();
    let mut writes = futures::stream::iter(roles)
        .map(|role| async move {
            let name = role.name_any();
            api.replace(&name, &PostParams::default(), &role)
                .await
                .map(|_| ())
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some(written) = writes.next().await {
        written.context("writing a role")?;
    }
    Ok(begin.elapsed())
}
