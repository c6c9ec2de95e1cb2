//! Bindings that would give back what people lose, within the new release's model.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Changes, EVERYTHING, Impact, Scope, iam_request};
use crate::{Grants, Level, Request, Template, role::Releases, state::State};

/// Whoever may do this makes workspaces.
const CREATE_WORKSPACES: Request<'_> = Request::Resource {
    verb: "create",
    api_group: "tenant.kubesphere.io",
    resource: "workspaces",
    subresource: "",
    name: "",
};

/// One binding to think about. Nothing of it is done by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suggestion {
    /// `User` or `Group`
    pub kind: String,
    pub name: String,
    /// `None`: on the platform.
    pub workspace: Option<String>,
    /// The built-in role to bind to, as it is called in the cluster. `None`: no role of the new release gives it back
    /// without giving everything.
    pub role: Option<String>,
    /// Why, in words.
    pub why: String,
}

/// The narrowest built-in role of a level that `is_enough` accepts, and that is not all-powerful.
fn narrowest(
    releases: Releases<'_>,
    level: Level,
    is_enough: impl Fn(&Template) -> bool,
) -> Option<&Template> {
    let built_in = releases.policy.built_in.get(&level)?;
    let roles = built_in
        .iter()
        .filter_map(|name| releases.to.role(level, name, None))
        .filter(|role| is_enough(role));
    let mut best: Option<&Template> = None;
    for role in roles {
        if best.is_none_or(|best| best.grants.covers(&role.grants) && !role.grants.covers(&best.grants)) {
            best = Some(role);
        }
    }
    best
}

/// What is suggested to whoever loses the same.
struct Advice<'r> {
    /// A role of a workspace that gives it back.
    workspace: Option<&'r Template>,
    makes_workspaces: bool,
    manages_members: bool,
    manages_users: bool,
    /// In words.
    what: String,
}

const fn manages(resource: &str) -> Request<'_> {
    iam_request("update", resource)
}

fn advise<'r>(releases: Releases<'r>, lost: &Changes) -> Advice<'r> {
    let all: Grants = lost.iter().flat_map(|change| &change.grants).cloned().collect();
    // What a built-in role of the workspace gives of it; hand-added rules no role gives.
    let from_templates: Grants = lost
        .iter()
        .filter(|change| change.template.is_some())
        .flat_map(|change| &change.grants)
        .cloned()
        .collect();
    let words: Vec<String> = lost
        .iter()
        .filter_map(|change| change.permission.clone())
        .collect();
    let loses = |request: &Request<'_>| all.allows(request);
    Advice {
        workspace: narrowest(releases, Level::Workspace, |role| {
            !from_templates.is_empty() && role.grants.covers(&from_templates)
        }),
        makes_workspaces: loses(&CREATE_WORKSPACES),
        manages_members: loses(&manages("workspacemembers")) || loses(&manages("workspaceroles")),
        manages_users: loses(&manages("users")),
        what: words.join(", "),
    }
}

pub(crate) fn suggest(state: &State<'_>, releases: Releases<'_>, impact: &Impact) -> Vec<Suggestion> {
    let makes_workspaces = narrowest(releases, Level::Platform, |role| {
        role.grants.allows(&CREATE_WORKSPACES) && !role.grants.allows(&EVERYTHING)
    });
    let administrator = narrowest(releases, Level::Workspace, |role| {
        let grants = &role.grants;
        grants.allows(&manages("workspacemembers")) && grants.allows(&manages("workspaceroles"))
    });
    let mut managed: HashMap<&str, Vec<&str>> = HashMap::new();
    for (workspace, manager) in &state.records.workspaces {
        if let Some(manager) = manager {
            managed.entry(manager).or_default().push(workspace);
        }
    }
    let in_workspace = |role: &Template, workspace: &str| role.name.replace("{workspace}", workspace);
    let mut known: HashMap<usize, Advice<'_>> = HashMap::new();
    let mut suggestions = Vec::new();
    for subject in &impact.subjects {
        if subject.lost.is_empty() || subject.kind == "ServiceAccount" {
            continue;
        }
        // Members of a group get it back with the group, but for what they alone are responsible for.
        let is_own = subject.through.is_empty();
        let advice = known
            .entry(subject.lost.address())
            .or_insert_with(|| advise(releases, &subject.lost));
        let mut push = |workspace: Option<&str>, role: Option<String>, why: String| {
            suggestions.push(Suggestion {
                kind: subject.kind.clone(),
                name: subject.name.clone(),
                workspace: workspace.map(str::to_owned),
                role,
                why,
            });
        };
        match &subject.scope {
            Scope::Workspace(workspace) if is_own => {
                if let Some(role) = advice.workspace {
                    let why = format!("loses {} in {workspace}", advice.what);
                    push(Some(workspace), Some(in_workspace(role, workspace)), why);
                }
            }
            Scope::Platform => {
                if let Some(role) = makes_workspaces.filter(|_| advice.makes_workspaces && is_own) {
                    push(
                        None,
                        Some(role.name.clone()),
                        "could create workspaces".to_owned(),
                    );
                }
                let own = managed.get(&*subject.name).filter(|_| subject.kind == "User");
                if let (Some(role), true) = (administrator, advice.manages_members) {
                    for workspace in own.into_iter().flatten() {
                        let why = format!("is the manager of {workspace}");
                        push(Some(workspace), Some(in_workspace(role, workspace)), why);
                    }
                }
                if advice.manages_users && is_own {
                    let why = "managed users, which only administrators of the platform do from now on";
                    push(None, None, why.to_owned());
                }
            }
            _ => {}
        }
    }
    suggestions.sort();
    suggestions.dedup();
    suggestions
}
