//! Who is left without what somebody has to have.

use std::collections::BTreeMap;

use object::ObjectKey;

use super::assess::Assessment;
use crate::{
    AccessFinding, IAM_GROUP, Request,
    finding::{no_member_manager, no_platform_role},
    hash::FastSet,
    state::{Place, State},
};

/// Whoever may do this manages the members of a workspace.
const MANAGE_MEMBERS: Request<'_> = Request::Resource {
    verb: "create",
    api_group: IAM_GROUP,
    resource: "workspacemembers",
    subresource: "",
    name: "",
};

/// Users who have no platform role afterwards, and workspaces in which nobody can manage members any more.
pub(crate) fn find_left_without(
    state: &State<'_>,
    assessment: &Assessment<'_, '_, '_>,
) -> Vec<AccessFinding> {
    let mut findings = Vec::new();
    let manages: Vec<bool> = assessment
        .sides()
        .map(|grants| grants.allows(&MANAGE_MEMBERS))
        .collect();
    // Who has a platform role before and after; whether a workspace has somebody.
    let (mut had, mut have) = (FastSet::default(), FastSet::default());
    let mut managed: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for (index, binding) in state.bindings.iter().enumerate() {
        let (before, after) = assessment.given(index);
        match binding.place {
            Place::Platform => {
                let (is_there, gives_role) = (binding.found.is_some(), assessment.gives_role(index));
                for subject in binding.subjects() {
                    let own = [subject.name].into_iter().filter(|_| subject.kind == "User");
                    let members = state.members.get(subject.name).into_iter().flatten().copied();
                    let members = members.filter(|_| subject.kind == "Group");
                    for user in own.chain(members) {
                        if is_there {
                            had.insert(user);
                        }
                        if gives_role {
                            have.insert(user);
                        }
                    }
                }
            }
            Place::Workspace(workspace) => {
                let is_held = binding.subjects().any(|subject| match subject.kind {
                    "Group" => state
                        .members
                        .get(subject.name)
                        .is_some_and(|members| !members.is_empty()),
                    _ => true,
                });
                if is_held {
                    let entry = managed.entry(workspace).or_default();
                    entry.0 |= manages[before];
                    entry.1 |= after.is_some_and(|after| manages[after]);
                }
            }
            _ => {}
        }
    }
    for user in &state.records.users {
        if !have.contains(&**user) && !user.starts_with("system:") {
            let key = ObjectKey::cluster(IAM_GROUP, "User", user);
            findings.push(no_platform_role(key, had.contains(&**user)));
        }
    }
    for (workspace, (before, after)) in managed {
        if before && !after {
            let key = ObjectKey::cluster("tenant.kubesphere.io", "Workspace", workspace);
            findings.push(no_member_manager(key));
        }
    }
    findings
}
