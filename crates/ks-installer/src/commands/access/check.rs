//! `access check`: may somebody do something?

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::sync::mpsc;
use std::thread;

use access::{Answer, Authorizer, Question};
use serde_json::json;

use super::{ask, authorizer, place, read, tell_unknown};
use crate::{
    cli::{Format, Global, access::CheckArgs},
    commands::Verdict,
    output::{
        self,
        text::{BOLD, RESET},
    },
};

pub(super) async fn check(global: &Global, args: CheckArgs) -> anyhow::Result<Verdict> {
    let records = read::records(global, args.source.from.as_deref()).await?;
    let authorizer = authorizer(&records);
    if args.batch {
        batch(&authorizer, std::io::stdin().lock(), std::io::stdout())?;
        return Ok(Verdict::Done);
    }
    let mut question = match (&args.resource, &args.path) {
        (Some(resource), _) => ask(resource, &args.scope)?,
        (None, path) => {
            let mut question = Question {
                path: path.as_deref().unwrap_or_default().into(),
                ..Question::default()
            };
            place(&mut question, &args.scope);
            question
        }
    };
    question.user = args.user.as_deref().unwrap_or_default().into();
    question.groups = args.group.iter().map(Into::into).collect();
    question.verb = args.verb.as_deref().unwrap_or_default().into();
    question.name = args.name.as_deref().unwrap_or_default().into();
    question.kubernetes_request = args.kubernetes_request;
    tell_unknown(&authorizer, &question);
    let (answer, kubectl) = (
        authorizer.check(&question),
        authorizer.check_kubernetes(&question),
    );
    if global.output == Format::Json {
        output::json(&json!({"allowed": answer.allowed, "reason": answer.reason, "kubectl": kubectl}))?;
    } else {
        output::print(&format!(
            "{}\n{}\n",
            line("KubeSphere", &answer),
            line("kubectl with a kubeconfig", &kubectl)
        ));
    }
    Ok(match answer.allowed {
        Some(true) => Verdict::Done,
        _ => Verdict::Refused,
    })
}

fn line(through: &str, answer: &Answer) -> String {
    let word = match answer.allowed {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    format!(
        "{BOLD}{word}{RESET} through {through}: {}",
        access::visible(&answer.reason)
    )
}

/// How much text is read before it is given to a thread; less where there is no more for now.
const SHARE: usize = 1 << 18;

/// Lines of questions, and of their answers. Its memory is used again, as fresh memory costs time.
#[derive(Default)]
struct Share {
    questions: Vec<u8>,
    answers: Vec<u8>,
}

/// Answers questions, one a line, in their order. What is there is answered before more is waited for, so that a program
/// can ask and wait for the answer.
fn batch(
    authorizer: &Authorizer<'_>,
    questions: impl BufRead,
    answers: impl Write + Send,
) -> std::io::Result<()> {
    let mut questions = BufReader::with_capacity(SHARE, questions);
    let mut answers = BufWriter::new(answers);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    if workers == 1 {
        let mut share = Share::default();
        while share.read(&mut questions)? {
            share.answer(authorizer);
            answers.write_all(&share.answers)?;
            answers.flush()?;
        }
        return Ok(());
    }
    thread::scope(|scope| {
        // Shares go to the threads in turn, their answers are taken in the same turn, and then they are filled again.
        let mut asks = Vec::new();
        let mut replies = Vec::new();
        for _ in 0..workers {
            let (ask, asked) = mpsc::sync_channel::<Share>(2);
            let (reply, replied) = mpsc::sync_channel::<Share>(2);
            asks.push(ask);
            replies.push(replied);
            scope.spawn(move || {
                for mut share in asked {
                    share.answer(authorizer);
                    if reply.send(share).is_err() {
                        return;
                    }
                }
            });
        }
        let (give_back, given_back) = mpsc::channel::<Share>();
        let writer = scope.spawn(move || -> std::io::Result<()> {
            for turn in 0.. {
                let Ok(share) = replies[turn % replies.len()].recv() else {
                    break;
                };
                answers.write_all(&share.answers)?;
                answers.flush()?;
                // Nobody waits for the last.
                let _ = give_back.send(share);
            }
            Ok(())
        });
        let mut turn = 0;
        let read = loop {
            let mut share = given_back.try_recv().unwrap_or_default();
            match share.read(&mut questions) {
                Ok(true) => {
                    if asks[turn % asks.len()].send(share).is_err() {
                        break Ok(());
                    }
                    turn += 1;
                }
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(asks);
        match writer.join() {
            // Whoever closes our output early has seen enough.
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
            Ok(_) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Share {
    /// Takes the whole lines that are there, and waits for one. Returns whether there was one.
    fn read(&mut self, questions: &mut BufReader<impl BufRead>) -> std::io::Result<bool> {
        let share = &mut self.questions;
        share.clear();
        if questions.read_until(b'\n', share)? == 0 {
            return Ok(false);
        }
        // What is buffered does not have to be waited for.
        while share.len() < SHARE {
            let Some(end) = questions.buffer().iter().rposition(|byte| *byte == b'\n') else {
                break;
            };
            share.extend_from_slice(&questions.buffer()[..=end]);
            questions.consume(end + 1);
        }
        Ok(true)
    }

    fn answer(&mut self, authorizer: &Authorizer<'_>) {
        let out = &mut self.answers;
        out.clear();
        let text = self.questions.strip_suffix(b"\n").unwrap_or(&self.questions);
        for line in text.split(|byte| *byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let answer = match serde_json::from_slice::<Question<'_>>(line) {
                Ok(question) => authorizer.check(&question),
                Err(error) => Answer::undecided(&format!("this is not a question: {error}")),
            };
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut *out, &answer);
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let mut loader = access::Loader::default();
        for line in [
            r#"{"apiVersion":"iam.kubesphere.io/v1alpha2","kind":"GlobalRole","metadata":{"name":"r"},"rules":[{"apiGroups":["*"],"resources":["pods"],"verbs":["get"]}]}"#,
            r#"{"apiVersion":"iam.kubesphere.io/v1alpha2","kind":"GlobalRoleBinding","metadata":{"name":"b"},"roleRef":{"kind":"GlobalRole","name":"r"},"subjects":[{"kind":"User","name":"u"}]}"#,
        ] {
            loader.add_json(line).unwrap();
        }
        let records = loader.finish();
        let mut questions = String::new();
        for number in 0..20_000 {
            let user = if number % 3 == 0 { "u" } else { "v" };
            questions.push_str(&format!(
                "{{\"user\":\"{user}\",\"groups\":[],\"verb\":\"get\",\"apiGroup\":\"\",\"resource\":\"pods\",\"subresource\":\"\",\"name\":\"\",\"scope\":\"global\",\"workspace\":\"\",\"namespace\":\"\",\"devops\":\"\",\"path\":\"\"}}\n"
            ));
        }
        questions.push_str("{\"user\":\"u\"}\nnot json");
        let mut out = Vec::new();
        batch(&authorizer(&records), questions.as_bytes(), &mut out).unwrap();
        let lines: Vec<Answer> = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 20_002);
        for (number, answer) in lines[..20_000].iter().enumerate() {
            assert_eq!(answer.allowed, Some(number % 3 == 0), "{number}");
        }
        assert_eq!(lines[0].reason, "GlobalRoleBinding b → GlobalRole r, rule 0");
        assert!(lines[20_000..].iter().all(|answer| answer.allowed.is_none()));
    }
}
