//! Reading and writing a cluster through kube::Client: snapshot, server-side apply, waits, archives.
