//! Kubernetes objects as data: keys, metadata, quantities, comparison, three-way merge, field ownership.
