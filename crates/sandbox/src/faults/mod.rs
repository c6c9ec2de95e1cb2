//! Faults on demand: what goes wrong on the way to the API, and what goes wrong in the cluster.
//!
//! ```text
//! kube::Client ──▶ Faulty ──▶ Service        Faults: which request meets which Fault (scripted rules, or drawn from a seed)
//!                                            Trouble: images, pods, claims and services of the cluster that do not work
//! ```
//!
//! [`Faults`] is a tower layer over any service that answers Kubernetes requests. Delays are tokio's, so that a test with
//! paused time does not wait. What happens follows from the rules or the seed and from the order of the requests alone.

mod call;
mod layer;
mod script;
mod trouble;

pub use call::{Call, Verb};
pub use layer::{Faulty, Fired, Tally};
pub use script::{Fault, Faults, Mix, Moment, Pick, Refusal, Rule};
pub(crate) use trouble::{Affliction, Troubles};
pub use trouble::{Trouble, TroubleError};
