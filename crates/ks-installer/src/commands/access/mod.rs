//! `access`: who may do what, and whose permissions an upgrade changes.

mod check;
mod impact;
mod read;
mod rego;
mod suggest;

use std::io::Write as _;

use access::{Authorizer, Question, Records, RequestScope, visible};
use anyhow::anyhow;

use super::Verdict;
use crate::{
    cli::{
        Format, Global,
        access::{AccessArgs, AccessCommand, ScopeArgs, ShowArgs, WhoCanArgs},
    },
    output::{
        self,
        text::{BOLD, DIM, RESET, shorten},
    },
};

pub(super) async fn access(global: &Global, args: AccessArgs) -> anyhow::Result<Verdict> {
    match args.command {
        AccessCommand::Impact(args) => impact::impact(global, &args).await,
        AccessCommand::Check(args) => check::check(global, args).await,
        AccessCommand::WhoCan(args) => who_can(global, args).await,
        AccessCommand::Show(args) => show(global, args).await,
    }
}

fn authorizer(records: &Records) -> Authorizer<'_> {
    Authorizer::new(records).with_interpreter(rego::evaluate)
}

/// Puts a resource as it is written on the command line, and a place, into a question.
fn ask<'q>(resource: &'q str, scope: &'q ScopeArgs) -> anyhow::Result<Question<'q>> {
    // The group may hold dots, the resource and its subresource do not.
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    if resource.is_empty() {
        return Err(anyhow!(
            "a resource is written like pods, pods/log or users.iam.kubesphere.io"
        ));
    }
    let mut question = Question {
        api_group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        ..Question::default()
    };
    place(&mut question, scope);
    Ok(question)
}

fn place<'q>(question: &mut Question<'q>, scope: &'q ScopeArgs) {
    if let Some(workspace) = &scope.workspace {
        (question.scope, question.workspace) = (RequestScope::Workspace, workspace.into());
    } else if let Some(namespace) = &scope.namespace {
        (question.scope, question.namespace) = (RequestScope::Namespace, namespace.into());
    } else if let Some(devops) = &scope.devops {
        (question.scope, question.devops) = (RequestScope::DevOps, devops.into());
    } else if scope.cluster {
        question.scope = RequestScope::Cluster;
    }
}

/// A no about what is not there is easily taken for a no about what was meant.
fn tell_unknown(authorizer: &Authorizer<'_>, question: &Question<'_>) {
    for what in authorizer.unknown_names(question) {
        output::note(&format!(
            "warning: the cluster knows {}: is the name right?",
            visible(&what)
        ));
    }
}

async fn who_can(global: &Global, args: WhoCanArgs) -> anyhow::Result<Verdict> {
    let records = read::records(global, args.source.from.as_deref()).await?;
    let mut question = ask(&args.resource, &args.scope)?;
    question.verb = args.verb.as_str().into();
    question.name = args.name.as_deref().unwrap_or_default().into();
    let authorizer = authorizer(&records);
    tell_unknown(&authorizer, &question);
    let holders = authorizer.who_can(&question);
    if global.output == Format::Json {
        output::json(&holders)?;
        return Ok(Verdict::Done);
    }
    let mut out = String::new();
    for holder in &holders {
        let members = match holder.members.len() {
            0 => String::new(),
            _ => format!(" ({})", shorten(&holder.members)),
        };
        let how = match (holder.is_open, holder.rule) {
            (true, _) => "perhaps: its Rego policy or its rules do not say without more".to_owned(),
            (false, Some(rule)) => format!("rule {rule}"),
            (false, None) => "its Rego policy".to_owned(),
        };
        out.push_str(&format!(
            "{BOLD}{} {}{RESET}{}  {DIM}{} → {}, {how}{RESET}\n",
            holder.kind,
            visible(&holder.name),
            visible(&members),
            visible(&holder.binding),
            visible(&holder.role)
        ));
    }
    if holders.is_empty() {
        out.push_str("Nobody\n");
    }
    output::print(&out);
    Ok(Verdict::Done)
}

async fn show(global: &Global, args: ShowArgs) -> anyhow::Result<Verdict> {
    let records = read::records(global, args.source.from.as_deref()).await?;
    let authorizer = authorizer(&records);
    let held = authorizer.show(&args.user);
    tell_unknown(
        &authorizer,
        &Question {
            user: args.user.as_str().into(),
            ..Question::default()
        },
    );
    if global.output == Format::Json {
        output::json(&held)?;
        return Ok(Verdict::Done);
    }
    let mut out = String::new();
    let mut scope = None;
    for held in &held {
        if scope != Some(&held.scope) {
            out.push_str(&format!("{BOLD}{}{RESET}\n", visible(&held.scope.to_string())));
            scope = Some(&held.scope);
        }
        let group = held
            .group
            .as_ref()
            .map(|group| format!(", as a member of {group}"));
        out.push_str(&format!(
            "  {}  {DIM}by {}{}{RESET}\n",
            visible(&held.role),
            visible(&held.binding),
            visible(&group.unwrap_or_default())
        ));
        if held.is_unknown {
            out.push_str("    (it does not exist, or its rules cannot be read)\n");
        }
        for words in &held.allows {
            out.push_str(&format!("    {}\n", visible(words)));
        }
        if held.has_policy {
            out.push_str("    and what its Rego policy allows\n");
        }
    }
    if held.is_empty() {
        out.push_str("Nothing\n");
    }
    output::print(&out);
    Ok(Verdict::Done)
}

/// Writes to standard output, however much it is; whoever closes it early has seen enough.
fn write_out(write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) {
    let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let _ = write(&mut out).and_then(|()| out.flush());
}
