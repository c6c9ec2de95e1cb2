//! `backup`: everything that an upgrade may touch, in one archive; and what becomes of it.

mod restore;

use std::{collections::BTreeMap, fmt::Write as _, io::IsTerminal as _, path::Path};

use anyhow::{anyhow, bail};
use cluster::{
    Cluster, ErrorClass, ReadError, Scope,
    archive::{ArchiveError, Contents, Meta},
    encryption::{Encryption, KeyError, Keys, Passphrase},
    store::{self, Backup, Listed, Location, StoreError},
};
use object::ObjectKey;
use serde_json::{Value, json};
use upgrade::{Plan, Snapshot};

use super::{Verdict, confirm, connect, read_error, with_hint};
use crate::{
    cli::{
        Format, Global,
        backup::{
            BackupArgs, BackupCommand, CreateArgs, DeleteArgs, EncryptArgs, KeyArgs, ListArgs, OpenArgs,
        },
    },
    output::{self, text},
};

/// Where a backup goes, and for whom it is.
#[derive(Debug)]
pub(crate) struct Target {
    pub location: Location,
    pub encryption: Encryption,
}

impl Target {
    /// The location that was asked for, or a new file in a folder.
    pub(super) fn new(asked: Option<Location>, folder: &Path, encryption: Encryption) -> Self {
        let place = asked.unwrap_or_else(|| Location::File(folder.to_owned()));
        Self {
            location: place.for_new_backup(jiff::Timestamp::now(), !encryption.is_none()),
            encryption,
        }
    }
}

pub(super) async fn backup(global: &Global, args: BackupArgs) -> anyhow::Result<Verdict> {
    match args.command.unwrap_or(BackupCommand::Create(args.create)) {
        BackupCommand::Create(args) => create(global, args).await,
        BackupCommand::List(args) => list(global, args).await,
        BackupCommand::Show(args) => show(global, args).await,
        BackupCommand::Verify(args) => verify(global, args).await,
        BackupCommand::Restore(args) => restore::restore(global, args).await,
        BackupCommand::Delete(args) => delete(global, args).await,
    }
}

async fn create(global: &Global, args: CreateArgs) -> anyhow::Result<Verdict> {
    let target = Target::new(args.to, Path::new("."), encryption(&args.encrypt)?);
    let cluster = connect(global).await?;
    let about = about(&cluster).await.map_err(read_error)?;
    let meta = meta(&about, None);
    let (contents, unreadable) = store::save_scope(
        &cluster,
        &target.location,
        &Scope::upgrade(),
        meta,
        &target.encryption,
    )
    .await
    .map_err(store_error)?;
    let (count, location) = (contents.index.count, target.location.to_string());
    let is_encrypted = !target.encryption.is_none();
    // A group that does not answer (GROUP/VERSION: an aggregated API that is down) has nothing that an upgrade touches.
    let missing: Vec<_> = unreadable
        .iter()
        .filter(|unreadable| !unreadable.resource.contains('/'))
        .collect();
    let verdict = if missing.is_empty() {
        Verdict::Done
    } else {
        Verdict::Refused
    };
    if global.output == Format::Json {
        output::json(
            &json!({"backup": location, "objects": count, "encrypted": is_encrypted,
            "missing": missing, "notIncluded": contents.index.not_included}),
        )?;
        return Ok(verdict);
    }
    let secrets = if is_encrypted {
        "It is encrypted; without a key nobody reads it, you included."
    } else {
        "It holds the cluster's secrets: keep it where only you can read it."
    };
    output::print(&format!(
        "{} saved and read back: {location}\n{secrets} Not in it: {}.\n",
        text::count(count, "object"),
        contents.index.not_included.join("; ")
    ));
    for unreadable in &missing {
        output::note(&format!(
            "{} are not in it: {}",
            unreadable.resource, unreadable.message
        ));
    }
    if !missing.is_empty() {
        output::note(
            "hint: this backup is not whole; make it as somebody who may read these, such as a caller bound to cluster-admin",
        );
    }
    Ok(verdict)
}

/// The few objects that tell what a backup is of.
async fn about(cluster: &Cluster) -> Result<Snapshot, ReadError> {
    let keys = [
        ObjectKey::cluster("", "Namespace", "kube-system"),
        upgrade::cluster_configuration_key(),
        ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-apiserver"),
    ];
    let kubernetes = cluster.version().await?;
    let mut objects = Vec::new();
    for key in &keys {
        match cluster.get(key).await {
            Ok(object) => objects.extend(object),
            // Said of its whole kind, as of all others that cannot be read.
            Err(error) if *error.class() == ErrorClass::Forbidden => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Snapshot::from_objects(&kubernetes, objects))
}

fn meta(snapshot: &Snapshot, plan: Option<&Plan>) -> Meta {
    let installed = upgrade::preflight::installed(snapshot);
    Meta {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        created: jiff::Timestamp::now(),
        cluster: snapshot.cluster_id().unwrap_or_default().to_owned(),
        kubernetes: snapshot.kubernetes.clone(),
        from: plan.map_or_else(
            || installed.version().unwrap_or_default().to_owned(),
            |plan| plan.from.clone(),
        ),
        to: plan.map(|p| p.to.clone()).unwrap_or_default(),
    }
}

/// Writes the archive, and reads it back.
pub(super) async fn write(
    cluster: &Cluster,
    snapshot: &Snapshot,
    plan: Option<&Plan>,
    target: &Target,
) -> anyhow::Result<Contents> {
    let meta = meta(snapshot, plan);
    let plan = serde_json::to_value(plan)?;
    let objects = snapshot.objects.values();
    store::save(
        Some(cluster),
        &target.location,
        objects,
        &plan,
        meta,
        &target.encryption,
    )
    .await
    .map_err(store_error)
}

async fn list(global: &Global, args: ListArgs) -> anyhow::Result<Verdict> {
    let cluster = connect_for(global, &args.from).await?;
    let found = store::list(cluster.as_ref(), &args.from)
        .await
        .map_err(store_error)?;
    if global.output == Format::Json {
        output::json(&json!({"backups": found}))?;
        return Ok(Verdict::Done);
    }
    let mut out = String::new();
    if found.is_empty() {
        let _ = writeln!(out, "There are no backups here: {}", args.from);
    }
    for listed in &found {
        let _ = writeln!(out, "{}", line(listed));
    }
    output::print(&out);
    Ok(Verdict::Done)
}

fn line(listed: &Listed) -> String {
    let created = listed.meta.as_ref().map(|meta| meta.created).or(listed.modified);
    let created = created.map_or_else(
        || "?".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    );
    let what = match &listed.meta {
        _ if listed.is_incomplete => "incomplete: it was never finished, or a part of it is gone".to_owned(),
        Some(meta) => format!("{} on Kubernetes {}", versions(meta), meta.kubernetes),
        None if listed.is_encrypted => "encrypted".to_owned(),
        None => "of another version of ks-installer, or no backup".to_owned(),
    };
    format!("{created}  {:>9}  {}  {what}", size(listed.size), listed.location)
}

/// `KubeSphere v3.2.1, before the upgrade to v3.3.1`
fn versions(meta: &Meta) -> String {
    match (meta.from.as_str(), meta.to.as_str()) {
        ("", _) => "no KubeSphere".to_owned(),
        (from, "") => format!("KubeSphere {from}"),
        (from, to) => format!("KubeSphere {from}, before the upgrade to {to}"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

fn summary(location: &Location, contents: &Contents) -> Value {
    let index = &contents.index;
    let mut value = json!({
        "location": location.to_string(),
        "format": index.format,
        "objects": index.count,
        "kinds": kinds(contents),
        "notIncluded": index.not_included,
        "plan": contents.plan,
    });
    if let (Some(map), Ok(Value::Object(meta))) = (value.as_object_mut(), serde_json::to_value(&index.meta)) {
        map.extend(meta);
    }
    value
}

fn kinds(contents: &Contents) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in &contents.index.objects {
        *kinds.entry(entry.kind()).or_default() += 1;
    }
    kinds
}

async fn show(global: &Global, args: OpenArgs) -> anyhow::Result<Verdict> {
    let cluster = connect_for(global, &args.location).await?;
    let backup = match open(cluster.as_ref(), &args).await? {
        Ok(backup) => backup,
        Err(error) => return refuse(global, &args.location, error),
    };
    if global.output == Format::Json {
        output::json(&summary(&args.location, &backup.contents))?;
        return Ok(Verdict::Done);
    }
    let (index, meta) = (&backup.contents.index, &backup.contents.index.meta);
    let mut out = String::new();
    let _ = writeln!(out, "{}", text::bold(&args.location.to_string()));
    let _ = writeln!(out, "  {}", versions(meta));
    let _ = writeln!(out, "  Kubernetes {}, cluster {}", meta.kubernetes, meta.cluster);
    let _ = writeln!(
        out,
        "  made {} by ks-installer {}",
        meta.created.strftime("%Y-%m-%d %H:%M:%SZ"),
        meta.tool
    );
    let _ = writeln!(
        out,
        "  {}, every one verified:",
        text::count(index.count, "object")
    );
    for (kind, number) in kinds(&backup.contents) {
        let _ = writeln!(out, "    {number:>6}  {kind}");
    }
    let _ = writeln!(out, "  Not in it: {}", index.not_included.join("; "));
    output::print(&out);
    Ok(Verdict::Done)
}

async fn verify(global: &Global, args: OpenArgs) -> anyhow::Result<Verdict> {
    let cluster = connect_for(global, &args.location).await?;
    let backup = match open(cluster.as_ref(), &args).await? {
        Ok(backup) => backup,
        Err(error) => return refuse(global, &args.location, error),
    };
    let count = backup.contents.index.count;
    if global.output == Format::Json {
        output::json(&json!({"location": args.location.to_string(), "verified": true, "objects": count}))?;
    } else {
        output::print(&format!(
            "{} {} is whole: {}, each with the SHA-256 that its index says.\n",
            text::tick(),
            args.location,
            text::count(count, "object")
        ));
    }
    Ok(Verdict::Done)
}

async fn delete(global: &Global, args: DeleteArgs) -> anyhow::Result<Verdict> {
    if !args.yes {
        ask_possible("backup delete")?;
        if !confirm(&format!("Delete {} for good?", args.location))? {
            output::print("Nothing was deleted.\n");
            return Ok(Verdict::Refused);
        }
    }
    let cluster = connect_for(global, &args.location).await?;
    store::delete(cluster.as_ref(), &args.location)
        .await
        .map_err(store_error)?;
    if global.output == Format::Json {
        output::json(&json!({"location": args.location.to_string(), "deleted": true}))?;
    } else {
        output::print(&format!("{} was deleted.\n", args.location));
    }
    Ok(Verdict::Done)
}

/// Connects when the location is in the cluster.
async fn connect_for(global: &Global, location: &Location) -> anyhow::Result<Option<Cluster>> {
    match location {
        Location::Secret { .. } => Ok(Some(connect(global).await?)),
        _ => Ok(None),
    }
}

/// Opens a backup; asks for its passphrase where that is needed and possible. What is wrong with the backup itself is
/// the inner error.
pub(super) async fn open(
    cluster: Option<&Cluster>,
    args: &OpenArgs,
) -> anyhow::Result<Result<Backup, StoreError>> {
    let mut keys = keys(&args.keys)?;
    let mut opened = store::open(cluster, &args.location, &keys).await;
    if let Err(StoreError::Archive(ArchiveError::Locked { passphrase: true, .. })) = opened
        && std::io::stdin().is_terminal()
    {
        keys = keys.with_passphrase(ask_passphrase("Passphrase of the backup: ")?);
        opened = store::open(cluster, &args.location, &keys).await;
    }
    match opened {
        Err(error) if !is_refusal(&error) => Err(store_error(error)),
        opened => Ok(opened),
    }
}

/// Whether the backup, rather than the way to it, is to blame.
fn is_refusal(error: &StoreError) -> bool {
    match error {
        StoreError::Archive(error) => !matches!(error, ArchiveError::Io { .. }),
        StoreError::Damaged { .. } => true,
        _ => false,
    }
}

/// Says why a backup is not used.
fn refuse(global: &Global, location: &Location, error: StoreError) -> anyhow::Result<Verdict> {
    if global.output == Format::Json {
        output::json(
            &json!({"location": location.to_string(), "verified": false, "why": error.to_string(), "hint": error.hint()}),
        )?;
    }
    output::note(&format!("error: {:#}", store_error(error)));
    Ok(Verdict::Refused)
}

pub(super) fn store_error(error: StoreError) -> anyhow::Error {
    let hint = error.hint();
    with_hint(error.into(), hint)
}

/// For whom the options say that a backup is.
pub(super) fn encryption(args: &EncryptArgs) -> anyhow::Result<Encryption> {
    if let Some(path) = &args.passphrase_file {
        return Ok(Encryption::Passphrase(Passphrase::from_file(path)?));
    }
    if args.passphrase {
        ask_possible("--passphrase")?;
        let passphrase = ask_secret("Passphrase for the backup: ")?;
        if ask_secret("The same again: ")? != passphrase {
            bail!("the two passphrases differ");
        }
        return Ok(Encryption::Passphrase(Passphrase::new(passphrase)?));
    }
    Ok(Encryption::for_recipients(&args.recipient)?)
}

fn keys(args: &KeyArgs) -> Result<Keys, KeyError> {
    let mut keys = Keys::default();
    for path in &args.identity {
        keys = keys.with_identity_file(path)?;
    }
    if let Some(path) = &args.passphrase_file {
        keys = keys.with_passphrase(Passphrase::from_file(path)?);
    }
    Ok(keys)
}

fn ask_passphrase(question: &str) -> anyhow::Result<Passphrase> {
    Ok(Passphrase::new(ask_secret(question)?)?)
}

/// Reads a line that is not shown.
fn ask_secret(question: &str) -> anyhow::Result<String> {
    let terminal = console::Term::stderr();
    terminal.write_str(question)?;
    Ok(terminal.read_secure_line()?)
}

/// Refuses to go on where there is nobody to ask.
fn ask_possible(what: &str) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    let hint = match what {
        _ if what.starts_with("--") => "use --passphrase-file",
        "backup restore" => "look at it with --dry-run, then add --yes",
        _ => "look at what it would do, then add --yes",
    };
    Err(anyhow!("{what} asks, and there is nobody to ask\nhint: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let check = |bytes: u64, expect: &str| assert_eq!(size(bytes), expect);
        check(12, "12 B");
        check(4096, "4 KiB");
        check((3 << 20) + (1 << 19), "3.5 MiB");
    }
}
