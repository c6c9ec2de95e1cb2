//! Carries a plan out: run, verify, events.
