//! `--drift ask`: what becomes of each field that was changed by hand is asked for, one after the other.

use std::io::{BufRead, IsTerminal as _, Write};

use anyhow::bail;
use cluster::ReadError;
use engine::{Prepared, Session};
use object::drift::Verdict;
use upgrade::{DriftAnswer, DriftOf};

use super::read_error;
use crate::output::text;

/// Collects and decides. Where `ask` says so, the answers to what is asked become part of the options, and it is decided
/// again: decisions are made from what is there and what was answered, and from nothing else.
pub(super) async fn prepare(session: &mut Session<'_>, ask: bool) -> anyhow::Result<Prepared> {
    prepare_by(session, ask, async |session| engine::prepare(session).await).await
}

/// The same, deciding in another way.
pub(super) async fn prepare_by(
    session: &mut Session<'_>,
    ask: bool,
    decide: impl AsyncFn(&Session<'_>) -> Result<Prepared, ReadError>,
) -> anyhow::Result<Prepared> {
    if ask && !std::io::stdin().is_terminal() {
        bail!(
            "--drift ask asks about every field that was changed by hand, and there is nobody to ask\nhint: choose --drift keep or --drift overwrite, or neither"
        );
    }
    let prepared = decide(session).await.map_err(read_error)?;
    if !ask {
        return Ok(prepared);
    }
    let answers = questions(
        &prepared.decision.drift,
        &mut std::io::stdin().lock(),
        &mut std::io::stderr().lock(),
    )?;
    if answers.is_empty() {
        return Ok(prepared);
    }
    session.options.drift_answers = answers;
    decide(session).await.map_err(read_error)
}

/// Asks about every field whose fate is open. An empty answer, or the end of the input, takes what is proposed.
fn questions(
    drift: &[DriftOf],
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> std::io::Result<Vec<DriftAnswer>> {
    let mut answers = Vec::new();
    for DriftOf { object, drift } in drift.iter().filter(|d| d.drift.open) {
        writeln!(output, "\n{object}: {} was changed by hand", drift.path)?;
        writeln!(output, "  {}", text::drift_sides(drift))?;
        let verdict = loop {
            let choices = if drift.kept {
                "[K]eep or [o]verwrite"
            } else {
                "[k]eep or [O]verwrite"
            };
            write!(output, "{choices}? ")?;
            output.flush()?;
            let mut line = String::new();
            let ended = input.read_line(&mut line)? == 0;
            match line.trim().to_ascii_lowercase().as_str() {
                "k" | "keep" => break Verdict::Keep,
                "o" | "overwrite" => break Verdict::Overwrite,
                text if ended || text.is_empty() => {
                    break if drift.kept {
                        Verdict::Keep
                    } else {
                        Verdict::Overwrite
                    };
                }
                _ => {}
            }
        };
        answers.push(DriftAnswer {
            object: object.clone(),
            path: drift.path.clone(),
            verdict,
        });
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use object::{ObjectKey, drift::Drift};
    use serde_json::json;

    use super::*;

    fn mk(path: &str, kept: bool, open: bool) -> DriftOf {
        DriftOf {
            object: ObjectKey::namespaced("apps", "Deployment", "n", "a"),
            drift: Drift {
                path: path.into(),
                released: Some(json!(1)),
                live: Some(json!(5)),
                new: Some(json!(1)),
                kept,
                open,
            },
        }
    }

    #[track_caller]
    fn check(input: &str, expect: &[(&str, Verdict)]) {
        let drift = [
            mk("spec.replicas", true, true),
            mk("spec.changed", false, false),
            mk("image", false, true),
        ];
        let mut shown = Vec::new();
        let answers = questions(&drift, &mut input.as_bytes(), &mut shown).expect("memory can be written");
        let got: Vec<_> = answers.iter().map(|a| (a.path.as_str(), a.verdict)).collect();
        assert_eq!(got, expect);
        let shown = String::from_utf8(shown).expect("text");
        assert!(shown.contains("released 1, now 5, the new release 1"), "{shown}");
    }

    #[test]
    fn every_open_field_is_asked_about() {
        use Verdict::{Keep, Overwrite};
        check("o\nkeep\n", &[("spec.replicas", Overwrite), ("image", Keep)]);
        check("\n\n", &[("spec.replicas", Keep), ("image", Overwrite)]);
        check("", &[("spec.replicas", Keep), ("image", Overwrite)]);
        check("what\nO\nk\n", &[("spec.replicas", Overwrite), ("image", Keep)]);
    }
}
