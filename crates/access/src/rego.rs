//! Rego policies in role annotations.
//!
//! ks-apiserver evaluates `data.authz.allow` of a policy with the attributes of the request as input. A question does
//! not say all of these. Policies that only compare fields with texts, which all of KubeSphere's own are, are put into
//! a form in which an unsaid field makes the answer unknown rather than wrong. Others go to a Rego interpreter that the
//! caller brings, where they ask for nothing that is unsaid; what that cannot evaluate cannot be decided.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{Question, Text};

/// A field of the request that policies ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    UserName,
    Verb,
    Workspace,
    Namespace,
    DevOps,
    ApiGroup,
    Resource,
    Subresource,
    Name,
    Path,
    ResourceScope,
    ResourceRequest,
    KubernetesRequest,
    /// No question says it: the API version, the cluster, the user's UID.
    Unsaid,
    /// There is no such field.
    Undefined,
}

/// Fields that a question never says.
const UNSAID: [&str; 5] = ["APIVersion", "Cluster", "User.UID", "User.Extra", "User"];

impl Field {
    fn of(name: &str) -> Self {
        match name {
            "User.Name" => Field::UserName,
            "Verb" => Field::Verb,
            "Workspace" => Field::Workspace,
            "Namespace" => Field::Namespace,
            "DevOps" => Field::DevOps,
            "APIGroup" => Field::ApiGroup,
            "Resource" => Field::Resource,
            "Subresource" => Field::Subresource,
            "Name" => Field::Name,
            "Path" => Field::Path,
            "ResourceScope" => Field::ResourceScope,
            "ResourceRequest" => Field::ResourceRequest,
            "KubernetesRequest" => Field::KubernetesRequest,
            name if UNSAID.contains(&name) => Field::Unsaid,
            _ => Field::Undefined,
        }
    }

    fn value<'q>(self, question: &'q Question<'_>) -> Known<'q> {
        Known::Text(match self {
            Field::UserName if question.user.is_empty() => "system:anonymous",
            Field::UserName => &question.user,
            Field::Verb => &question.verb,
            Field::Workspace => &question.workspace,
            Field::Namespace => &question.namespace,
            Field::DevOps => &question.devops,
            Field::ApiGroup => &question.api_group,
            Field::Resource => &question.resource,
            Field::Subresource => &question.subresource,
            Field::Name => &question.name,
            Field::ResourceScope => question.scope.word(),
            Field::Path if question.path.is_empty() => return Known::Unsaid,
            Field::Path => &question.path,
            Field::ResourceRequest => return Known::Truth(question.path.is_empty()),
            Field::KubernetesRequest => {
                return question.kubernetes_request.map_or(Known::Unsaid, Known::Truth);
            }
            Field::Unsaid => return Known::Unsaid,
            Field::Undefined => return Known::Undefined,
        })
    }
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known<'v> {
    Text(&'v str),
    Truth(bool),
    Unsaid,
    Undefined,
}

impl Known<'_> {
    fn equals(self, other: Self) -> Option<bool> {
        match (self, other) {
            // An expression with an undefined value does not hold.
            (Known::Undefined, _) | (_, Known::Undefined) => Some(false),
            (Known::Unsaid, _) | (_, Known::Unsaid) => None,
            (a, b) => Some(a == b),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Field(Field),
    Text(String),
    Truth(bool),
    /// Any of these.
    AnyOf(Vec<Term>),
}

impl Term {
    fn value<'q>(&'q self, question: &'q Question<'_>) -> Known<'q> {
        match self {
            Term::Field(field) => field.value(question),
            Term::Text(text) => Known::Text(text),
            Term::Truth(truth) => Known::Truth(*truth),
            Term::AnyOf(_) => Known::Undefined,
        }
    }
}

/// Both are equal.
#[derive(Clone, Debug, PartialEq)]
struct Comparison(Term, Term);

impl Comparison {
    fn holds(&self, question: &Question<'_>) -> Option<bool> {
        let (one, other) = match (&self.0, &self.1) {
            (Term::AnyOf(items), other) | (other, Term::AnyOf(items)) => {
                let other = other.value(question);
                let mut result = Some(false);
                for item in items {
                    match item.value(question).equals(other) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => result = None,
                    }
                }
                return result;
            }
            (one, other) => (one, other),
        };
        one.value(question).equals(other.value(question))
    }
}

/// A policy of a role.
#[derive(Clone, Debug)]
pub(crate) struct Policy(Form);

#[derive(Clone, Debug)]
enum Form {
    /// It allows what all comparisons of one of these lists hold for.
    Comparisons(Vec<Vec<Comparison>>),
    /// It takes an interpreter.
    Program(Text),
}

impl Policy {
    pub(crate) fn new(text: &Text) -> Self {
        Self(match parse(text) {
            Some(clauses) => Form::Comparisons(clauses),
            None => Form::Program(Text::clone(text)),
        })
    }

    /// Whether it takes long.
    pub(crate) fn is_program(&self) -> bool {
        matches!(self.0, Form::Program(_))
    }

    /// Whether the policy allows a request; `None`: it cannot be decided.
    pub(crate) fn allows(
        &self,
        question: &Question<'_>,
        groups: &[&str],
        interpreter: Option<Interpreter>,
    ) -> Option<bool> {
        match &self.0 {
            Form::Comparisons(clauses) => {
                let mut result = Some(false);
                for clause in clauses {
                    let mut holds = Some(true);
                    for comparison in clause {
                        match comparison.holds(question) {
                            Some(true) => {}
                            None => holds = None,
                            Some(false) => {
                                holds = Some(false);
                                break;
                            }
                        }
                    }
                    match holds {
                        Some(true) => return Some(true),
                        None => result = None,
                        Some(false) => {}
                    }
                }
                result
            }
            Form::Program(text) => run(text, question, groups, interpreter?),
        }
    }
}

/// The clauses of a policy that only compares.
fn parse(text: &str) -> Option<Vec<Vec<Comparison>>> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.split(';'))
        .map(str::trim)
        .filter(|line| !line.is_empty());
    if lines.next()? != "package authz" {
        return None;
    }
    let mut clauses = Vec::new();
    while let Some(line) = lines.next() {
        match line {
            "default allow = false" | "default allow := false" => {}
            "allow = true {" | "allow {" | "allow := true {" => {
                let mut lists: HashMap<&str, Vec<Term>> = HashMap::new();
                let mut clause = Vec::new();
                loop {
                    let line = lines.next()?;
                    if line == "}" {
                        break;
                    }
                    if let Some((name, list)) = line.split_once(":=") {
                        let list: Vec<Value> = serde_json::from_str(list.trim()).ok()?;
                        let list = list.iter().map(literal).collect::<Option<Vec<_>>>()?;
                        if lists.insert(name.trim(), list).is_some() {
                            return None;
                        }
                        continue;
                    }
                    let (one, other) = line.split_once("==")?;
                    clause.push(Comparison(term(one.trim(), &lists)?, term(other.trim(), &lists)?));
                }
                if clause.is_empty() {
                    return None;
                }
                clauses.push(clause);
            }
            _ => return None,
        }
    }
    Some(clauses)
}

fn literal(value: &Value) -> Option<Term> {
    match value {
        Value::String(text) => Some(Term::Text(text.clone())),
        Value::Bool(truth) => Some(Term::Truth(*truth)),
        _ => None,
    }
}

fn term(text: &str, lists: &HashMap<&str, Vec<Term>>) -> Option<Term> {
    if let Some(field) = text.strip_prefix("input.") {
        let is_plain = field.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        return is_plain.then(|| Term::Field(Field::of(field)));
    }
    if let Some(name) = text.strip_suffix("[_]") {
        return lists.get(name).cloned().map(Term::AnyOf);
    }
    literal(&serde_json::from_str(text).ok()?)
}

/// Evaluates `data.authz.allow` of a Rego policy (of before Rego 1) with an input in JSON. `None`: it cannot be.
pub type Interpreter = fn(policy: &str, input: &str) -> Option<bool>;

/// Runs a policy in the interpreter.
fn run(text: &str, question: &Question<'_>, groups: &[&str], interpreter: Interpreter) -> Option<bool> {
    let asks_for = |field: &str| text.contains(field);
    let is_whole_input = text.replace("input.", "").contains("input");
    if is_whole_input
        || asks_for("input.APIVersion")
        || asks_for("input.Cluster")
        || text
            .replace("input.User.Name", "")
            .replace("input.User.Groups", "")
            .contains("input.User")
        || (question.path.is_empty() && asks_for("input.Path"))
    {
        return None;
    }
    let mut input = json!({
        "User": {"Name": question.user_name(), "Groups": groups},
        "Verb": question.verb, "Workspace": question.workspace, "Namespace": question.namespace,
        "DevOps": question.devops, "APIGroup": question.api_group, "Resource": question.resource,
        "Subresource": question.subresource, "Name": question.name, "Path": question.path,
        "ResourceScope": question.scope.word(), "ResourceRequest": question.path.is_empty(),
    });
    let both = [false, true].into_iter();
    let mut results = both
        .filter(|to_kubernetes| {
            question
                .kubernetes_request
                .is_none_or(|said| said == *to_kubernetes)
        })
        .map(|to_kubernetes| {
            input["KubernetesRequest"] = to_kubernetes.into();
            interpreter(text, &input.to_string())
        });
    let first = results.next()??;
    results.all(|result| result == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestScope;

    /// What GlobalRole `authenticated` carries.
    const AUTHENTICATED: &str = r#"package authz
default allow = false
allow = true {
  input.Resource == "users"
  input.User.Name == input.Name
}
allow = true {
  allowedResources := ["clustermembers","workspacemembers","members"]
  allowedResources[_] == input.Resource
  input.User.Name == input.Name
  allowedVerbs := ["get","list","watch"]
  allowedVerbs[_] == input.Verb
}
allow = true {
  allowedNoneResources := ["/api","/api/v1"]
  allowedNoneResources[_] == input.Path
  input.Verb == "GET"
}
allow = true {
  input.APIGroup == "tenant.kubesphere.io"
  input.KubernetesRequest == false
  allowedVerbs := ["get","list","watch"]
  allowedVerbs[_] == input.Verb
}
"#;

    fn question<'q>(verb: &'q str, group: &'q str, resource: &'q str, name: &'q str) -> Question<'q> {
        Question {
            user: "u".into(),
            verb: verb.into(),
            api_group: group.into(),
            resource: resource.into(),
            name: name.into(),
            scope: RequestScope::Global,
            ..Question::default()
        }
    }

    #[test]
    fn the_shipped_policy_needs_no_interpreter() {
        let policy = Policy::new(&AUTHENTICATED.into());
        assert!(!policy.is_program());
        let check = |verb, group, resource, name, expect: Option<bool>| {
            let question = question(verb, group, resource, name);
            assert_eq!(policy.allows(&question, &[], None), expect, "{question:?}");
        };
        check("update", "iam.kubesphere.io", "users", "u", Some(true));
        check("update", "iam.kubesphere.io", "users", "v", Some(false));
        check("get", "iam.kubesphere.io", "workspacemembers", "u", Some(true));
        check(
            "delete",
            "iam.kubesphere.io",
            "workspacemembers",
            "u",
            Some(false),
        );
        // Whether it comes by /kapis or /apis is not said.
        check("get", "tenant.kubesphere.io", "workspaces", "", None);
        check("create", "tenant.kubesphere.io", "workspaces", "", Some(false));
    }

    fn interpreter(policy: &str, input: &str) -> Option<bool> {
        let mut engine = regorus::Engine::new();
        engine.set_rego_v0(true);
        engine
            .add_policy("authz.rego".to_owned(), policy.to_owned())
            .ok()?;
        engine.set_input(regorus::Value::from_json_str(input).ok()?);
        let allowed = engine.eval_rule("data.authz.allow".to_owned()).ok()?;
        Some(matches!(allowed, regorus::Value::Bool(true)))
    }

    #[test]
    fn both_ways_agree() {
        let text: Text = AUTHENTICATED.into();
        let policy = Policy::new(&text);
        for verb in ["get", "GET", "delete"] {
            for group in ["iam.kubesphere.io", "tenant.kubesphere.io"] {
                for resource in ["users", "members", "other"] {
                    for name in ["u", "v", ""] {
                        for (path, to_kubernetes) in [("/api", false), ("/x", true), ("/x", false)] {
                            let question = Question {
                                path: path.into(),
                                kubernetes_request: Some(to_kubernetes),
                                ..question(verb, group, resource, name)
                            };
                            let fast = policy.allows(&question, &[], None);
                            assert!(fast.is_some());
                            assert_eq!(run(&text, &question, &[], interpreter), fast, "{question:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_takes_an_interpreter_is_run_or_left_open() {
        let check = |body: &str, expect: Option<bool>| {
            let text = format!("package authz\ndefault allow = false\nallow = true {{\n{body}\n}}\n");
            let policy = Policy::new(&text.as_str().into());
            assert!(policy.is_program(), "{body}");
            let question = question("get", "iam.kubesphere.io", "users", "u");
            assert_eq!(
                policy.allows(&question, &["g"], Some(interpreter)),
                expect,
                "{body}"
            );
            assert_eq!(policy.allows(&question, &["g"], None), None, "{body}");
        };
        check("startswith(input.Resource, \"us\")", Some(true));
        check("startswith(input.Resource, \"ro\")", Some(false));
        check("input.User.Groups[_] == \"g\"", Some(true));
        check("not input.Verb == \"get\"", Some(false));
        check("startswith(input.APIVersion, \"v1\")", None);
        check("startswith(input.Path, \"/\")", None);
        check("x := input\nx.Verb == \"get\"", None);
        check("no_such_function(input.Verb)", None);
        check("not input.KubernetesRequest", None);
        check("not input.KubernetesRequest == 1", Some(true));
        check("this is no Rego (", None);
    }
}
