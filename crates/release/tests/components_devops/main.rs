//! DevOps, Argo CD, App Store, topology, network, edge nodes and federation in v3.3.1: every setting where it ends up,
//! and what must hold whatever the settings are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod devops;
mod matrix;
mod situation;

const COMPONENTS: [&str; 8] = [
    "networkpolicy",
    "ippool",
    "topology",
    "openpitrix",
    "multicluster",
    "edgeruntime",
    "argocd",
    "devops",
];
