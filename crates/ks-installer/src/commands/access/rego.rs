//! Rego policies of roles, evaluated without letting one stop the program.
//!
//! Whoever may write a role may write a policy. One that calls itself would overflow the stack, a deeply nested one takes the parser
//! years, others build a number that fills the memory. [`is_harmless`] lets through what roles have a use for; what remains is
//! evaluated by a thread that is waited for a moment only. All else cannot be decided.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    num::NonZeroU32,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};

/// Longer than any policy that somebody wrote by hand, in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// Brackets within brackets. The parser tries each twice.
const MAX_DEPTH: usize = 8;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of the thread that evaluates, in bytes.
const STACK: usize = 64 << 20;

/// Functions whose results are no larger than what they are given.
const HARMLESS: [&str; 27] = [
    "abs",
    "any",
    "all",
    "array.slice",
    "contains",
    "count",
    "endswith",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "split",
    "startswith",
    "substring",
    "trim",
    "trim_prefix",
    "trim_suffix",
    "upper",
];

const KEYWORDS: [&str; 15] = [
    "as", "contains", "default", "else", "every", "false", "if", "import", "in", "input", "not", "null",
    "package", "some", "true",
];

struct Worker {
    questions: Sender<(String, String)>,
    answers: Receiver<Option<bool>>,
}

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
    /// Policies that are not evaluated (again).
    static REFUSED: RefCell<HashSet<String>> = RefCell::default();
    static HARMLESS_ONES: RefCell<HashSet<String>> = RefCell::default();
}

/// Whether a policy allows what the input (JSON) says, as ks-apiserver evaluates it. `None`: it cannot be evaluated.
pub(super) fn evaluate(policy: &str, input: &str) -> Option<bool> {
    if REFUSED.with_borrow(|refused| refused.contains(policy)) {
        return None;
    }
    if !HARMLESS_ONES.with_borrow(|known| known.contains(policy)) {
        if !is_harmless(policy) {
            refuse(policy);
            return None;
        }
        HARMLESS_ONES.with_borrow_mut(|known| known.insert(policy.to_owned()));
    }
    WORKER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Worker::start();
        }
        let worker = slot.as_ref()?;
        let asked = worker.questions.send((policy.to_owned(), input.to_owned()));
        let answer = asked
            .ok()
            .and_then(|()| worker.answers.recv_timeout(PATIENCE).ok());
        if answer.is_none() {
            // It goes on by itself, or is gone; another takes its place.
            *slot = None;
            refuse(policy);
        }
        answer.flatten()
    })
}

fn refuse(policy: &str) {
    REFUSED.with_borrow_mut(|refused| refused.insert(policy.to_owned()));
}

impl Worker {
    fn start() -> Option<Self> {
        let (questions, asked) = channel::<(String, String)>();
        let (answer, answers) = channel();
        thread::Builder::new()
            .name("rego".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let mut engines = HashMap::new();
                while let Ok((policy, input)) = asked.recv() {
                    if answer.send(run(&mut engines, policy, &input)).is_err() {
                        return;
                    }
                }
            })
            .ok()?;
        Some(Self { questions, answers })
    }
}

fn run(engines: &mut HashMap<String, Option<Engine>>, policy: String, input: &str) -> Option<bool> {
    let engine = engines.entry(policy).or_insert_with_key(|policy| read(policy));
    let engine = engine.as_mut()?;
    engine.set_input(Value::from_json_str(input).ok()?);
    let allowed = engine.eval_rule("data.authz.allow".to_owned()).ok()?;
    Some(matches!(allowed, Value::Bool(true)))
}

fn read(policy: &str) -> Option<Engine> {
    let mut engine = Engine::new();
    // What ks-apiserver links is of before Rego 1.
    engine.set_rego_v0(true);
    engine.set_execution_timer_config(ExecutionTimerConfig {
        limit: PATIENCE,
        check_interval: NonZeroU32::MIN.saturating_add(999),
    });
    engine
        .add_policy("authz.rego".to_owned(), policy.to_owned())
        .ok()?;
    Some(engine)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'p> {
    Word(&'p str),
    /// A text or a number.
    Literal,
    Sign(char),
}

/// Each with whether it is the first of its line.
fn tokens(policy: &str) -> Option<Vec<(Token<'_>, bool)>> {
    let mut tokens = Vec::new();
    let (mut rest, mut is_first) = (policy, true);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\n' => {
                is_first = true;
                1
            }
            '#' => rest.find('\n').unwrap_or(rest.len()),
            c if c.is_whitespace() => c.len_utf8(),
            '"' | '`' => {
                let length = text_length(rest, c)?;
                tokens.push((Token::Literal, is_first));
                is_first = false;
                length
            }
            c if c.is_alphanumeric() || c == '_' => {
                let length = rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                let word = &rest[..length];
                let token = if c.is_numeric() {
                    Token::Literal
                } else {
                    Token::Word(word)
                };
                tokens.push((token, is_first));
                is_first = false;
                length
            }
            c => {
                tokens.push((Token::Sign(c), is_first));
                is_first = false;
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Some(tokens)
}

/// The length of the text that begins here, quotes included. `None`: it does not end.
fn text_length(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' && quote == '"' {
            is_escaped = true;
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}

/// Whether evaluating a policy can neither overflow the stack nor fill the memory. In doubt it is not.
fn is_harmless(policy: &str) -> bool {
    policy.len() <= MAX_LENGTH
        && tokens(policy)
            .is_some_and(|tokens| is_shallow(&tokens) && calls_nothing_else(&tokens) && !recurs(&tokens))
}

fn is_shallow(tokens: &[(Token<'_>, bool)]) -> bool {
    let mut depth = 0_usize;
    tokens.iter().all(|(token, _)| {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth <= MAX_DEPTH
    })
}

/// No functions but [`HARMLESS`] ones and the policy's own, no products (of which numbers without end are made), nothing of
/// other policies.
fn calls_nothing_else(tokens: &[(Token<'_>, bool)]) -> bool {
    let own: BTreeSet<&str> = rules(tokens).into_keys().collect();
    (0..tokens.len()).all(|at| {
        let next = tokens.get(at + 1).map(|(token, _)| token);
        match &tokens[at].0 {
            Token::Sign('*') | Token::Word("data" | "with") => false,
            // The body of one without braces has no end that could be told.
            Token::Word("if") => next == Some(&Token::Sign('{')),
            Token::Word("import") => matches!(next, Some(Token::Word("future" | "rego"))),
            Token::Word(name) if next == Some(&Token::Sign('(')) => {
                let mut path = vec![*name];
                let mut begin = at;
                while let [.., (Token::Word(name), _), (Token::Sign('.'), _)] = &tokens[..begin] {
                    path.insert(0, name);
                    begin -= 2;
                }
                let path = path.join(".");
                HARMLESS.contains(&path.as_str()) || own.contains(path.as_str())
            }
            _ => true,
        }
    })
}

/// The names of rules and functions, each with all names that stand in it. Where a name may be that of a rule, it is taken for one.
fn rules<'p>(tokens: &[(Token<'p>, bool)]) -> BTreeMap<&'p str, BTreeSet<&'p str>> {
    let mut rules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let (mut heads, mut depth) = (Vec::new(), 0_usize);
    let mut before: Option<&Token<'_>> = None;
    for (token, is_first) in tokens {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Token::Word(name) if !KEYWORDS.contains(name) => {
                let follows = matches!(before, Some(Token::Sign(sign)) if !matches!(sign, ')' | ']' | '}'));
                let begins = depth == 0 && !follows && (*is_first || is_begin(before));
                if begins {
                    heads = vec![*name];
                    rules.entry(name).or_default();
                } else {
                    for head in &heads {
                        rules.entry(head).or_default().insert(name);
                    }
                    let is_value = matches!(before, Some(Token::Sign('=' | '.')));
                    if depth == 0 && !is_value {
                        heads.push(name);
                        rules.entry(name).or_default();
                    }
                }
            }
            _ => {}
        }
        before = Some(token);
    }
    rules
}

fn is_begin(before: Option<&Token<'_>>) -> bool {
    matches!(
        before,
        None | Some(Token::Sign('}') | Token::Word("default" | "package" | "import"))
    )
}

/// Whether a rule or a function may come back to itself.
fn recurs(tokens: &[(Token<'_>, bool)]) -> bool {
    let rules = rules(tokens);
    // As many rounds as a way through all rules is long.
    let mut reached = rules.clone();
    for _ in 0..rules.len() {
        let further: BTreeMap<&str, BTreeSet<&str>> = reached
            .iter()
            .map(|(name, names)| {
                let next = names.iter().filter_map(|name| rules.get(name)).flatten();
                (*name, names.iter().chain(next).copied().collect())
            })
            .collect();
        if further == reached {
            break;
        }
        reached = further;
    }
    reached.iter().any(|(name, names)| names.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "package authz\ndefault allow = false\n";

    fn ask(body: &str) -> Option<bool> {
        evaluate(
            &format!("{HEAD}{body}"),
            r#"{"Resource": "users", "Verb": "get", "User": {"Name": "u", "Groups": ["team"]}}"#,
        )
    }

    #[test]
    fn what_people_write_is_evaluated() {
        for (body, allowed) in [
            ("allow { input.Resource == \"users\" }", true),
            ("allow { input.Resource == \"roles\" }", false),
            (
                "allow {\n  is_user\n  not is_write\n}\nis_user { input.Resource == \"users\" }\nis_write { input.Verb == \"create\" }",
                true,
            ),
            ("allow { input.User.Groups[_] == \"team\" }", true),
            (
                "f(x) = y { y := lower(x) }\nallow { f(\"USERS\") == input.Resource }",
                true,
            ),
            ("verbs = {\"get\", \"list\"}\nallow { verbs[input.Verb] }", true),
            (
                "allow { startswith(input.Resource, \"us\"); count([1, 2]) == 2 } # (((((((((",
                true,
            ),
            (
                "allow { input.Verb == \"{{{{{{{{{{{{\" } else = true { input.Verb == `get` }",
                true,
            ),
        ] {
            assert_eq!(ask(body), Some(allowed), "{body}");
        }
    }

    /// Each of these would end the program, or not end at all.
    #[test]
    fn what_may_not_end_is_not_begun() {
        for body in [
            "f(x) = y { y := f(x) }\nallow { f(1) }",
            "f(x) = y { y := g(x) }\ng(x) = y { y := f(x) }\nallow { f(1) }",
            "allow { a }\na { b }\nb { a }",
            "allow { data.authz.allow }",
            "allow { data[\"authz\"].allow }",
            "a = 1 +\n a\nallow { a == 1 }",
            "a = 1\n + a\nallow { a == 1 }",
            "x = 1 b { b } allow { b }",
            "import future.keywords.if\nallow if\n allow",
            "allow { count(numbers.range(1, 10000000000)) > 1 }",
            "allow { a := 99999999999; b := a * a; c := b * b; c > 1 }",
            "allow { input.Verb == \"get",
        ] {
            assert_eq!(ask(body), None, "{body}");
        }
        let nested = format!(
            "allow {{ x := {}1{}; count(x) == 0 }}",
            "[".repeat(20),
            "]".repeat(20)
        );
        assert_eq!(ask(&nested), None);
        let long = format!("allow {{ 0 == 1{} }}", " + 1".repeat(100_000));
        assert_eq!(ask(&long), None);
    }

    /// Equal lists of equal lists: no step of the interpreter ends, so that it cannot stop itself.
    #[test]
    fn what_takes_too_long_is_given_up() {
        let lists = |name: &str| {
            let first = format!("{name}0 := [1, 1]; ");
            let next = (1..40).map(|i| format!("{name}{i} := [{name}{0}, {name}{0}]; ", i - 1));
            std::iter::once(first).chain(next).collect::<String>()
        };
        let body = format!(
            "allow {{ {}{}a39 == b39 }}",
            lists("a").replace("; ", "\n"),
            lists("b").replace("; ", "\n")
        );
        assert_eq!(ask(&body), None);
        // And the next one is answered.
        assert_eq!(ask("allow { input.Verb == \"get\" }"), Some(true));
    }
}
