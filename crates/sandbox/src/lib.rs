//! An embedded Kubernetes API in memory, as a tower service and over HTTP.

pub mod fields;
