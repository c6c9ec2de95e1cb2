//! KubeSphere's permission model: roles, templates, bindings, aggregation, migration, effective access.
//! Pure: it is given objects, and gives back what would have to change.
//!
//! ```text
//!   releases/VERSION/access.yaml ─▶ AccessFile ─▶ Catalog (templates, built-in roles) + Policy (what goes)
//!                                                    │
//!   the cluster's objects ─▶ Loader ─▶ Records ─▶ migrate ─▶ Migration
//!                                         │          │          ├─ role and binding changes, removals, findings
//!                                         │       grants: what rules        ├─ Impact: who loses and gains which permission
//!                                         │       allow, as exact sets      └─ suggestions
//!                                         ├────▶ Authorizer ─▶ Answers: may somebody do this?
//!                                         └────▶ deviations: is what happened what was announced?
//! ```
//!
//! Nothing here knows a version or a role by name: all of that is data.

mod authorizer;
mod canonical;
mod catalog;
mod finding;
mod grant;
mod grants;
mod hash;
mod impact;
mod line;
mod migrate;
mod names;
mod oddities;
mod policy;
mod question;
mod records;
mod rego;
mod role;
mod rule;
mod state;
mod words;

pub use authorizer::{Authorizer, Held, Holder};
pub use canonical::Canonical;
pub use catalog::{AccessFile, Catalog, CatalogError, Template};
pub use finding::{AccessFinding, reason};
pub use grant::{Grant, Request, ResourceGrant, UrlGrant, UrlPattern};
pub use grants::Grants;
pub use impact::{
    Changes, Deviation, DirectChange, Impact, Kept, PermissionChange, Scope, SubjectImpact, Suggestion,
    Summary, WhyChanged, deviations,
};
pub use line::LineKind;
pub use migrate::{BindingAction, BindingChange, MigrateOptions, Migration, migrate, migrate_records};
pub use names::Names;
pub use policy::{Level, Policy, RemovedRole};
pub use question::{Answer, Question, RequestScope};
pub use records::{FEDERATED_GROUP, FEDERATED_KINDS, Loader, Records, Text};
pub use rego::Interpreter;
pub use role::{Renamed, RoleChange};
pub use rule::{Rule, RuleList};
pub use words::visible;

/// The API group of KubeSphere's own roles, bindings, users and groups.
pub const IAM_GROUP: &str = "iam.kubesphere.io";
/// The API group of Kubernetes' roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// On a custom role: a JSON list of the templates that it was put together from.
pub const AGGREGATION: &str = "iam.kubesphere.io/aggregation-roles";
/// On a template: a JSON list of the templates that it takes.
pub const DEPENDENCIES: &str = "iam.kubesphere.io/dependencies";
/// On a role: it is a template; `"false"` hides it from the console.
pub const TEMPLATE: &str = "iam.kubesphere.io/role-template";
/// On a role: a Rego policy that can allow a request before the rules are looked at.
pub const REGO: &str = "iam.kubesphere.io/rego-override";
/// On a workspace's objects: its name.
pub const WORKSPACE: &str = "kubesphere.io/workspace";
/// On a namespace: it belongs to the DevOps project of this name.
pub const DEVOPS_PROJECT: &str = "kubesphere.io/devopsproject";
/// On a binding that KubeSphere made: the user whom it is for.
pub const USER_REF: &str = "iam.kubesphere.io/user-ref";
