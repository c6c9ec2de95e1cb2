//! Developer chores as a library, so that tests can start a control plane.
