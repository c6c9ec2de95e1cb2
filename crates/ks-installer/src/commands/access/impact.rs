//! `access impact`: whose permissions an upgrade changes.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use access::{
    AccessFinding, Changes, Grant, Impact, Kept, MigrateOptions, Migration, Scope, SubjectImpact, WhyChanged,
    migrate_records,
};
use anyhow::{Context as _, anyhow};
use release::{Files, Version, catalog_versions, load_catalog, nearest_catalog_version};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{read, suggest, write_out};
use crate::{
    cli::{Format, Global, access::ImpactArgs},
    commands::{Verdict, releases, with_hint},
    output::{
        self,
        text::{self, BOLD, RESET, YELLOW},
    },
};

pub(super) async fn impact(global: &Global, args: &ImpactArgs) -> anyhow::Result<Verdict> {
    if args.suggest && global.output != Format::Text {
        return Err(anyhow!(
            "suggestions are YAML, whatever -o says\nhint: leave -o out; -o json without --suggest has who loses what"
        ));
    }
    let begun = Instant::now();
    let records = read::records(global, args.source.from.as_deref()).await?;
    let read = begun.elapsed();
    let files = Files::embedded();
    let known = catalog_versions(&files);
    let parse = |text: &str| -> anyhow::Result<Version> {
        text.parse()
            .map_err(|_| anyhow!("{text} is not a version such as v3.2.1"))
    };
    let releases = releases()?;
    let options = upgrade::Options {
        target: args.to.clone(),
        ..upgrade::Options::default()
    };
    let to = upgrade::target(&releases, &options).map_err(|finding| {
        let hint = finding.hint.clone();
        with_hint(anyhow!("{}", finding.message), hint)
    })?;
    let to = to.version.clone();
    let installed = read::installed(&records, args.installed.as_deref(), &known, &to)?;
    let core = parse(&installed)?.core();
    let from =
        &nearest_catalog_version(&files, &core).context("no release is built in; please report this")?;
    if *from != core {
        output::note(&format!(
            "the permissions that {installed} shipped are not known; those of {from} are taken"
        ));
    }
    let (to_catalog, policy) = load_catalog(&files, &to)?;
    let (from_catalog, _) = load_catalog(&files, from)?;
    let options = MigrateOptions {
        refresh_templates: !args.no_refresh_templates,
    };
    let begun = Instant::now();
    let migration = migrate_records(&records, &from_catalog, &to_catalog, &policy, options);
    let took = [read, begun.elapsed()];
    if args.suggest {
        output::print(&suggest::yaml(&migration, to_catalog.objects()));
        return Ok(Verdict::Done);
    }
    let from = from.to_string();
    let to = to.to_string();
    write_out(|out| match global.output {
        Format::Json => json(out, &migration, [&from, &to], took),
        Format::Csv => csv(out, &migration.impact),
        Format::Html => html(out, &migration, &from, &to),
        Format::Text => people(out, &migration, &from, &to),
    });
    // The process ends here: taking a large cluster's answer apart piece by piece would only take time.
    std::mem::forget((records, migration));
    Ok(Verdict::Done)
}

/// What a person has to decide.
fn decisions(migration: &Migration) -> impl Iterator<Item = &AccessFinding> {
    migration.findings.iter().filter(|finding| finding.needs_decision)
}

fn people(out: &mut dyn Write, migration: &Migration, from: &str, to: &str) -> io::Result<()> {
    let mut text = format!(
        "{}\n",
        text::bold(&format!("KubeSphere {from} → {to}: who may do what"))
    );
    text.push_str(&text::summary(&migration.impact.summary()));
    let decisions: Vec<_> = decisions(migration).collect();
    if !decisions.is_empty() {
        text.push_str(&format!(
            "\n{YELLOW}Needs a decision ({}){RESET}\n",
            decisions.len()
        ));
    }
    for finding in decisions {
        text.push_str(&format!(
            "  - {}: {} [{}]\n",
            finding.object, finding.message, finding.reason
        ));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("    hint: {hint}\n"));
        }
    }
    text.push_str(&text::impact(&migration.impact));
    text.push_str(&format!(
        "\n{BOLD}ks-installer access impact -o json{RESET} has the exact rules; {BOLD}--suggest{RESET} writes bindings that give back what \
         the new release can give.\n"
    ));
    // Colours are taken out where nobody sees them.
    let text = if anstream::AutoStream::choice(&io::stdout()) == anstream::ColorChoice::Never {
        anstream::adapter::strip_str(&text).to_string()
    } else {
        text
    };
    out.write_all(text.as_bytes())
}

/// Texts of what many people lose alike, made once each.
#[derive(Default)]
struct Made<T>(HashMap<usize, T>);

impl<T> Made<T> {
    fn of(&mut self, changes: &Changes, make: impl FnOnce(&Changes) -> T) -> &T {
        self.0.entry(changes.address()).or_insert_with(|| make(changes))
    }
}

fn json(
    out: &mut dyn Write,
    migration: &Migration,
    [from, to]: [&str; 2],
    [read, decide]: [Duration; 2],
) -> io::Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry<'a> {
        kind: &'a str,
        name: &'a str,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        members: &'a [String],
        scope: &'a Scope,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        through: &'a [String],
        lost: &'a RawValue,
        gained: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        kubectl: Option<Direct<'a>>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        kept: &'a Kept,
        reasons: &'a [WhyChanged],
    }
    #[derive(Serialize)]
    struct Direct<'a> {
        lost: &'a RawValue,
        gained: &'a RawValue,
    }
    fn entries(
        mut text: Vec<u8>,
        subjects: &[SubjectImpact],
        made: &mut Made<Box<RawValue>>,
    ) -> io::Result<Vec<u8>> {
        for subject in subjects {
            let kubectl = &subject.kubectl;
            for changes in [&subject.lost, &subject.gained, &kubectl.lost, &kubectl.gained] {
                made.of(changes, |changes| to_raw_value(changes).unwrap_or_default());
            }
            let made = |changes: &Changes| &*made.0[&changes.address()];
            let entry = Entry {
                kind: &subject.kind,
                name: &subject.name,
                members: &subject.members,
                scope: &subject.scope,
                through: &subject.through,
                lost: made(&subject.lost),
                gained: made(&subject.gained),
                kubectl: (!kubectl.is_none()).then(|| Direct {
                    lost: made(&kubectl.lost),
                    gained: made(&kubectl.gained),
                }),
                kept: &subject.kept,
                reasons: &subject.reasons,
            };
            text.extend_from_slice(b",\n");
            serde_json::to_writer(&mut text, &entry)?;
        }
        Ok(text)
    }
    // Threads take shares in turn, and their texts are written in the same turn.
    fn list(out: &mut dyn Write, subjects: &[SubjectImpact]) -> io::Result<()> {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let shares: Vec<_> = subjects.chunks(64).collect();
        thread::scope(|scope| {
            let shares = &shares;
            let texts: Vec<_> = (0..workers)
                .map(|first| {
                    let (send, receive) = mpsc::sync_channel(4);
                    // Memory of what is written is used again: fresh memory costs time.
                    let (give_back, given_back) = mpsc::channel();
                    scope.spawn(move || {
                        let mut made: Made<Box<RawValue>> = Made::default();
                        for share in shares.iter().skip(first).step_by(workers) {
                            let memory = given_back.try_recv().unwrap_or_default();
                            if send.send(entries(memory, share, &mut made)).is_err() {
                                return;
                            }
                        }
                    });
                    (receive, give_back)
                })
                .collect();
            for turn in 0..shares.len() {
                let (receive, give_back) = &texts[turn % workers];
                let mut text = receive.recv().map_err(io::Error::other)??;
                // No comma before the first.
                out.write_all(&text[usize::from(turn == 0)..])?;
                text.clear();
                // Nobody waits for the last.
                let _ = give_back.send(text);
            }
            Ok(())
        })
    }
    write!(
        out,
        "{{\"from\":\"{from}\",\"to\":\"{to}\",\"readSeconds\":{:.3},\"decideSeconds\":{:.3},\n\"summary\":",
        read.as_secs_f64(),
        decide.as_secs_f64()
    )?;
    serde_json::to_writer(&mut *out, &migration.impact.summary())?;
    out.write_all(b",\n\"decisions\":")?;
    serde_json::to_writer(&mut *out, &decisions(migration).collect::<Vec<_>>())?;
    out.write_all(b",\n\"everyone\":[")?;
    list(out, &migration.impact.everyone)?;
    out.write_all(b"],\n\"subjects\":[")?;
    list(out, &migration.impact.subjects)?;
    out.write_all(b"]}\n")
}

/// One line of a table: a change of somebody.
struct Cell<'a> {
    subject: &'a SubjectImpact,
    /// `lost`, `gained`, `lost with kubectl`, `gained with kubectl`
    what: &'static str,
    permission: &'a str,
    rules: String,
    reasons: String,
}

/// Every change of everybody, one after the other.
fn each(impact: &Impact, mut take: impl FnMut(Cell<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut made: Made<Vec<String>> = Made::default();
    for subject in impact.everyone.iter().chain(&impact.subjects) {
        let reasons: Vec<String> = subject.reasons.iter().map(ToString::to_string).collect();
        for (what, changes) in [
            ("lost", &subject.lost),
            ("gained", &subject.gained),
            ("lost with kubectl", &subject.kubectl.lost),
            ("gained with kubectl", &subject.kubectl.gained),
        ] {
            let rules = made.of(changes, |changes| {
                changes.iter().map(|change| rules(&change.grants)).collect()
            });
            for (change, rules) in changes.iter().zip(rules) {
                take(Cell {
                    subject,
                    what,
                    permission: change.permission.as_deref().unwrap_or_default(),
                    rules: rules.clone(),
                    reasons: reasons.join("; "),
                })?;
            }
        }
    }
    Ok(())
}

fn rules(grants: &[Grant]) -> String {
    let words: Vec<String> = grants.iter().map(ToString::to_string).collect();
    words.join("; ")
}

/// A field of a CSV file. What a spreadsheet would take for a formula gets an apostrophe before it.
fn field(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        "'"
    } else {
        ""
    };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

fn csv(out: &mut dyn Write, impact: &Impact) -> io::Result<()> {
    writeln!(out, "kind,name,scope,change,permission,rules,reasons")?;
    each(impact, |cell| {
        let Cell { subject, .. } = cell;
        let fields = [
            &subject.kind,
            &subject.name,
            &subject.scope.to_string(),
            cell.what,
            cell.permission,
            &cell.rules,
            &cell.reasons,
        ];
        let fields: Vec<String> = fields.into_iter().map(field).collect();
        writeln!(out, "{}", fields.join(","))
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn html(out: &mut dyn Write, migration: &Migration, from: &str, to: &str) -> io::Result<()> {
    const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:80rem}table{border-collapse:\
        collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ccc}\
        td.rules{font-family:ui-monospace,monospace;font-size:13px}@media(prefers-color-scheme:dark){body{background:\
        #111;color:#ddd}}";
    writeln!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Access: {from} → {to}</title><style>{STYLE}</style>\n\
         <h1>Who may do what: KubeSphere {from} → {to}</h1>"
    )?;
    let summary = text::summary(&migration.impact.summary());
    for line in anstream::adapter::strip_str(&summary)
        .to_string()
        .lines()
        .filter(|line| !line.is_empty())
    {
        writeln!(out, "<p>{}</p>", escaped(line.trim()))?;
    }
    let mut decisions = decisions(migration).peekable();
    if decisions.peek().is_some() {
        writeln!(out, "<h2>Needs a decision</h2><ul>")?;
        for finding in decisions {
            let hint = finding
                .hint
                .as_deref()
                .map(|hint| format!("<br><code>{}</code>", escaped(hint)));
            writeln!(
                out,
                "<li><b>{}</b>: {}{}</li>",
                escaped(&finding.object.to_string()),
                escaped(&finding.message),
                hint.unwrap_or_default()
            )?;
        }
        writeln!(out, "</ul>")?;
    }
    writeln!(
        out,
        "<h2>Changes</h2><table><thead><tr><th>who<th>scope<th>change<th>permission<th>rules<th>why</tr></thead><tbody>"
    )?;
    each(&migration.impact, |cell| {
        writeln!(
            out,
            "<tr><td>{} {}<td>{}<td>{}<td>{}<td class=\"rules\">{}<td>{}</tr>",
            escaped(&cell.subject.kind),
            escaped(&cell.subject.name),
            escaped(&cell.subject.scope.to_string()),
            cell.what,
            escaped(cell.permission),
            escaped(&cell.rules),
            escaped(&cell.reasons)
        )
    })?;
    writeln!(out, "</tbody></table></html>")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn everybody_is_listed_once_and_in_order() {
        // Enough for every thread to use its memory again.
        const USERS: usize = 5000;
        let user = |number: usize| SubjectImpact {
            kind: "User".to_owned(),
            // Shorter ones come after longer ones, so that what is left of these would show.
            name: format!("{}-{number}", "u".repeat(1 + (USERS - number) / 100)),
            members: Vec::new(),
            scope: Scope::Platform,
            through: Vec::new(),
            lost: Changes::default(),
            gained: Changes::default(),
            kubectl: access::DirectChange::default(),
            kept: Kept::default(),
            reasons: Vec::new(),
        };
        let subjects: Vec<_> = (0..USERS).map(user).collect();
        let migration = Migration {
            impact: Impact {
                subjects,
                ..Impact::default()
            },
            ..Migration::default()
        };
        let mut out = Vec::new();
        json(&mut out, &migration, ["v1", "v2"], [Duration::ZERO; 2]).unwrap();
        let document: Value = serde_json::from_slice(&out).unwrap();
        let listed: Vec<_> = document["subjects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|subject| subject["name"].as_str().unwrap())
            .collect();
        let names = migration
            .impact
            .subjects
            .iter()
            .map(|subject| subject.name.as_str());
        assert_eq!(listed, names.collect::<Vec<_>>());
    }
}
