//! The roles and bindings of a cluster, indexed.
