//! Who is left without what somebody has to have.

use std::collections::BTreeMap;

use object::ObjectKey;

use super::{EVERYTHING, assess::Assessment, iam_request};
use crate::{
    AccessFinding, Grants, IAM_GROUP,
    finding::{no_member_manager, no_platform_role},
    hash::FastSet,
    state::{Place, State, SubjectId},
};

/// Whoever may do one of these manages the members of a workspace: the verb, and what it is in words.
const MANAGE_MEMBERS: [(&str, &str); 3] = [("create", "add"), ("update", "change"), ("delete", "remove")];

/// Which of [`MANAGE_MEMBERS`] somebody may do.
type Managing = [bool; MANAGE_MEMBERS.len()];

fn managing(grants: &Grants) -> Managing {
    MANAGE_MEMBERS.map(|(verb, _)| grants.allows(&iam_request(verb, "workspacemembers")))
}

fn add(to: &mut Managing, more: Managing) {
    for (to, more) in to.iter_mut().zip(more) {
        *to |= more;
    }
}

/// Who manages the members of a workspace, before and after.
#[derive(Clone, Copy, Default)]
struct Managed {
    before: Managing,
    after: Managing,
}

impl Managed {
    fn add(&mut self, more: Self) {
        add(&mut self.before, more.before);
        add(&mut self.after, more.after);
    }

    /// What nobody can do any more, in words.
    fn lost(self) -> Option<String> {
        let verbs = MANAGE_MEMBERS.iter().zip(self.before.iter().zip(self.after));
        let lost = verbs.filter(|(_, (before, after))| **before && !after);
        let words: Vec<&str> = lost.map(|((_, word), _)| *word).collect();
        if words.is_empty() {
            None
        } else if self.after.contains(&true) {
            Some(words.join(" or "))
        } else {
            Some("manage".to_owned())
        }
    }
}

/// Users who have no platform role afterwards, and workspaces in which nobody can manage members any more.
pub(crate) fn find_left_without(
    state: &State<'_>,
    assessment: &Assessment<'_, '_, '_>,
) -> Vec<AccessFinding> {
    let mut findings = Vec::new();
    let manages: Vec<Managing> = assessment.sides().map(managing).collect();
    // Of administrators of the platform nobody is left without.
    let manages_everywhere: Vec<Managing> = assessment
        .sides()
        .zip(&manages)
        .map(|(grants, manages)| {
            if grants.allows(&EVERYTHING) {
                Managing::default()
            } else {
                *manages
            }
        })
        .collect();
    // Who has a platform role before and after.
    let (mut had, mut have) = (FastSet::default(), FastSet::default());
    // Who manages members of one workspace, and of all.
    let names = state
        .records
        .workspaces
        .keys()
        .map(|name| (&**name, Managed::default()));
    let mut managed: BTreeMap<&str, Managed> = names.collect();
    let mut everywhere = Managed::default();
    for (index, binding) in state.bindings.iter().enumerate() {
        let (before, after) = assessment.given(index);
        let by = |manages: &[Managing]| Managed {
            before: manages[before],
            after: after.map(|after| manages[after]).unwrap_or_default(),
        };
        let is_held = |subject: &SubjectId<'_>| {
            let has_members = || {
                state
                    .members
                    .get(subject.name)
                    .is_some_and(|members| !members.is_empty())
            };
            subject.kind != "Group" || has_members()
        };
        if matches!(binding.place, Place::Platform | Place::Cluster)
            && binding
                .subjects()
                .any(|subject| subject.is_person() && is_held(&subject))
        {
            everywhere.add(by(&manages_everywhere));
        }
        match binding.place {
            Place::Platform => {
                let (is_there, gives_role) = (binding.found.is_some(), assessment.gives_role(index));
                for subject in binding.subjects() {
                    let own = [subject.name].into_iter().filter(|_| subject.kind == "User");
                    let of_group = (subject.kind == "Group").then(|| state.members.get(subject.name));
                    let members = of_group.flatten().into_iter().flatten().copied();
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
            Place::Workspace(workspace) if binding.subjects().any(|subject| is_held(&subject)) => {
                managed.entry(workspace).or_default().add(by(&manages));
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
    for (workspace, mut managed) in managed {
        managed.add(everywhere);
        if let Some(what) = managed.lost() {
            let key = ObjectKey::cluster("tenant.kubesphere.io", "Workspace", workspace);
            findings.push(no_member_manager(key, &what));
        }
    }
    findings
}
