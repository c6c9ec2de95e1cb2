//! Bindings that would give back what people lose, within the new release's model.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Impact, Scope};
use crate::{Grants, IAM_GROUP, Level, Request, Template, role::Releases, state::State};

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
fn narrowest<'r>(
    releases: Releases<'r>,
    level: Level,
    is_enough: impl Fn(&Template) -> bool,
) -> Option<&'r Template> {
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

pub(crate) fn suggest(state: &State<'_>, releases: Releases<'_>, impact: &Impact) -> Vec<Suggestion> {
    let mut suggestions = BTreeSet::new();
    let everything = Request::Resource {
        verb: "*",
        api_group: "*",
        resource: "*",
        subresource: "",
        name: "",
    };
    let is_all = |grants: &Grants| grants.allows(&everything);
    let makes_workspaces = narrowest(releases, Level::Platform, |role| {
        role.grants.allows(&CREATE_WORKSPACES) && !is_all(&role.grants)
    });
    for subject in &impact.subjects {
        if subject.lost.is_empty() || subject.kind == "ServiceAccount" {
            continue;
        }
        let suggestion = |workspace: Option<&str>, role: Option<String>, why: String| Suggestion {
            kind: subject.kind.clone(),
            name: subject.name.clone(),
            workspace: workspace.map(str::to_owned),
            role,
            why,
        };
        let lost = subject.lost.iter().flat_map(|change| &change.grants);
        let loses = |request: &Request<'_>| lost.clone().any(|grant| grant.allows(request));
        match &subject.scope {
            Scope::Workspace(workspace) => {
                let lost: Grants = lost.clone().cloned().collect();
                // What a built-in role of the workspace gives of it; hand-added rules no role gives.
                let Some(role) = narrowest(releases, Level::Workspace, |role| {
                    subject
                        .lost
                        .iter()
                        .filter(|change| change.template.is_some())
                        .flat_map(|change| &change.grants)
                        .all(|grant| role.grants.covers(&[grant.clone()].into_iter().collect()))
                        && !role.grants.is_disjoint(&lost)
                }) else {
                    continue;
                };
                let name = role.name.replace("{workspace}", workspace);
                let what: Vec<String> = subject
                    .lost
                    .iter()
                    .filter_map(|change| change.permission.clone())
                    .collect();
                suggestions.insert(suggestion(
                    Some(workspace),
                    Some(name),
                    format!("loses {} in {workspace}", what.join(", ")),
                ));
            }
            Scope::Platform => {
                if loses(&CREATE_WORKSPACES)
                    && let Some(role) = makes_workspaces
                {
                    suggestions.insert(suggestion(
                        None,
                        Some(role.name.clone()),
                        "could create workspaces".to_owned(),
                    ));
                }
                let manages = |resource: &'static str| Request::Resource {
                    verb: "update",
                    api_group: IAM_GROUP,
                    resource,
                    subresource: "",
                    name: "",
                };
                if loses(&manages("workspacemembers")) || loses(&manages("workspaceroles")) {
                    let own = state.records.workspaces.iter().filter(|(_, manager)| {
                        subject.kind == "User" && manager.as_deref() == Some(&*subject.name)
                    });
                    for (workspace, _) in own {
                        let admin = narrowest(releases, Level::Workspace, |role| {
                            role.grants.allows(&manages("workspacemembers"))
                                && role.grants.allows(&manages("workspaceroles"))
                        });
                        let Some(admin) = admin else { continue };
                        suggestions.insert(suggestion(
                            Some(workspace),
                            Some(admin.name.replace("{workspace}", workspace)),
                            format!("is the manager of {workspace}"),
                        ));
                    }
                }
                if loses(&manages("users")) {
                    suggestions.insert(suggestion(
                        None,
                        None,
                        "managed users, which only administrators of the platform do from now on".to_owned(),
                    ));
                }
            }
            _ => {}
        }
    }
    suggestions.into_iter().collect()
}
