//! The releases' data, and the migration on real and on generated clusters.

#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

mod bad_input;
mod cases;
mod catalog;
mod common;
mod federated;
mod impact;
mod oracle;
mod properties;
mod tenants;
mod twice;
