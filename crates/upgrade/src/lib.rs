//! The decisions: settings, snapshot to findings, plan, health predicates.
