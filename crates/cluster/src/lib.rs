//! Reading and writing a cluster through `kube::Client`, live or in the sandbox.
//!
//! ```text
//!   connect() ─▶ kube::Client ─▶ Cluster ─┬─ snapshot(Scope) ─▶ upgrade::Snapshot
//!                                         ├─ get · list · review            ─▶ ReadError
//!                                         └─ apply · patch · create · delete ─▶ WriteError
//!                                                      │
//!                            ErrorClass says what to do about an error; retry goes by it
//!
//!   archive   objects ◀──▶ one verified file (tar + zstd, encrypted with age): a backup
//!   store     where backups are kept: files, Secrets, object storage
//!   restore   a backup ─▶ what differs ─▶ what is brought back
//!   dump      objects ◀──▶ one JSON object a line, or a List, for rehearsals
//! ```
//!
//! Nothing here decides what is to be written, and no body of an object ever stands in an error or a log line.

pub mod archive;
mod cluster;
mod connect;
mod discovery;
pub mod dump;
pub mod encryption;
mod error;
mod expiry;
mod file;
mod request;
pub mod restore;
pub mod retry;
mod scope;
mod snapshot;
pub mod store;

pub use cluster::{Cluster, FIELD_MANAGER};
pub use connect::{ClusterName, ConnectError, ConnectOptions, choose_tls, connect};
pub use error::{Classified, ErrorClass, Failure, ReadError, WriteError};
pub use file::write_private;
pub use scope::{Scope, is_platform_group};
