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
use kube::api::{Api, DynamicObject, ListParams, PostParams};
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

/// What two thousand custom roles add to the writing of an upgrade, and a plain loop of PUTs that make of them the same.
pub(super) fn measure_migration(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let catalog = catalog()?;
    let roles: Vec<Value> = (0..ROLES)
        .map(|number| role(number, &catalog))
        .collect::<anyhow::Result<_>>()?;
    let (mut added, mut plain) = (Vec::new(), Vec::new());
    for number in 0..=bench.options.runs {
        (bench.report)(&format!("migration {} of {}", number + 1, bench.options.runs + 1));
        let (without, _) = upgraded(bench, &runtime, &[])?;
        let (with, migrated) = upgraded(bench, &runtime, &roles)?;
        added.push((with - without).max(0.0) * 1000.0);
        let looped = runtime.block_on(plain_loop(bench, &roles, &migrated))?;
        plain.push(looped.as_secs_f64() * 1000.0);
    }
    added.remove(0);
    plain.remove(0);
    Ok(vec![
        Row {
            what: format!(
                "what {ROLES} custom WorkspaceRoles add to the writing of an `upgrade` on a real API server"
            ),
            time: spread(added)?,
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

/// The seconds of writing in an upgrade, and what it made of the measured roles.
fn upgraded(
    bench: &Bench<'_>,
    runtime: &tokio::runtime::Runtime,
    roles: &[Value],
) -> anyhow::Result<(f64, Vec<DynamicObject>)> {
    let control_plane = runtime.block_on(restored(&bench.options.dump, roles))?;
    let kubeconfig = control_plane.kubeconfig();
    let kubeconfig = kubeconfig.to_string_lossy();
    let arguments = writes("upgrade", &[], &kubeconfig);
    let sample = super::measure(bench.command(&arguments)).context("the upgrade with custom roles")?;
    let seconds = number_at(&sample, "writingSeconds")?;
    let migrated = runtime.block_on(async { measured_roles(&role_api(&control_plane).await?).await })?;
    Ok((seconds, migrated))
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

/// Reads all roles once, and then only writes.
async fn plain_loop(
    bench: &Bench<'_>,
    roles: &[Value],
    migrated: &[DynamicObject],
) -> anyhow::Result<Duration> {
    let control_plane = restored(&bench.options.dump, roles).await?;
    let api = &role_api(&control_plane).await?;
    let mut measured = measured_roles(api).await?;
    if measured.len() != migrated.len() || migrated.len() != ROLES {
        bail!("{} roles of {ROLES}, {} migrated", measured.len(), migrated.len());
    }
    for (role, migrated) in measured.iter_mut().zip(migrated) {
        if role.data == migrated.data {
            bail!("the upgrade changed nothing in {}", role.name_any());
        }
        role.data.clone_from(&migrated.data);
        role.metadata
            .annotations
            .clone_from(&migrated.metadata.annotations);
    }
    let begin = Instant::now();
    let mut writes = futures::stream::iter(measured)
        .map(|role| async move {
            let name = role.metadata.name.clone().unwrap_or_default();
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
