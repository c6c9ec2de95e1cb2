//! The releases' data, and the migration on real and on generated clusters.

mod catalog;
mod common;
mod properties;
mod tenants;
