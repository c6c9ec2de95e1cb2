//! Plays the kubelets: keeps the nodes alive, and carries out what `pods` and `volumes` decide.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{ApiResource, GroupVersionKind, WatchParams};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent,
};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::pods::{self, Source, Step};
use super::{Error, volumes};

/// The field manager under which the nodes write, as real ones do.
const MANAGER: &str = "kubelet";
/// A node is taken for dead after 40 s without a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(crate) struct Settings {
    pub(crate) make_nodes: usize,
    pub(crate) make_storage_class: bool,
    pub(crate) pods: pods::Settings,
}

/// The nodes, until dropped.
pub(crate) struct Nodes {
    _background: Background,
}

impl Nodes {
    pub(crate) fn start(config: Config, settings: Settings) -> Result<Self, Error> {
        let background = Background::start("nodes", async move || {
            let Ok(client) = super::client_of(config) else {
                return;
            };
            if settings.make_storage_class {
                until_done(async || make_storage_class(&client).await).await;
            }
            for number in 1..=settings.make_nodes {
                until_done(async || make_node(&client, number).await).await;
            }
            let kubelet = Arc::new(Kubelet {
                client,
                settings: settings.pods,
                addresses: AtomicU32::new(0),
            });
            tokio::join!(
                keep_alive(&kubelet.client),
                follow_pods(&kubelet),
                volumes::follow(&kubelet.client)
            );
        })?;
        Ok(Self {
            _background: background,
        })
    }
}

/// A thread with a runtime of its own: what it does goes on while a test blocks, and outlives a test's runtime.
pub(crate) struct Background {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work` until it ends or the value is dropped.
    pub(crate) fn start(name: &str, work: impl AsyncFnOnce() + Send + 'static) -> Result<Self, Error> {
        let (stop, mut stopped) = watch::channel(false);
        let failed = |source| Error::file(Path::new("a thread"), source);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work() => (),
                    // An error means that the other side is gone, which is as good as a yes.
                    _ = stopped.wait_for(|stop| *stop) => (),
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(failed)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so on stderr.
            let _ = thread.join();
        }
    }
}

/// Tries again until it works: at the start of a cluster, namespaces and caches take a moment.
async fn until_done(mut act: impl AsyncFnMut() -> Result<(), kube::Error>) {
    loop {
        match act().await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if status.is_already_exists() => return,
            Err(error) => tracing::debug!(%error, "trying again"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn make_storage_class(client: &Client) -> Result<(), kube::Error> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": volumes::PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
    });
    create(
        client,
        &GroupVersionKind::gvk("storage.k8s.io", "v1", "StorageClass"),
        class,
    )
    .await
}

async fn make_node(client: &Client, number: usize) -> Result<(), kube::Error> {
    let name = format!("node{number}");
    let resources = json!({"cpu": "16", "memory": "64Gi", "ephemeral-storage": "500Gi", "pods": "250"});
    let role = if number == 1 {
        "node-role.kubernetes.io/master"
    } else {
        "node-role.kubernetes.io/worker"
    };
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", role: "",
        }},
        "status": {
            "capacity": resources, "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": format!("192.168.0.{}", number % 250 + 1)},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "none", "kernelVersion": "none",
                "containerRuntimeVersion": "fake://1", "machineID": "", "systemUUID": "", "bootID": "",
                "kubeletVersion": format!("v{}", super::KUBERNETES_VERSION),
                "kubeProxyVersion": format!("v{}", super::KUBERNETES_VERSION),
            },
        },
    });
    create(client, &GroupVersionKind::gvk("", "v1", "Node"), node).await
}

/// Creates an object of a cluster-wide kind.
pub(crate) async fn create(
    client: &Client,
    kind: &GroupVersionKind,
    object: Value,
) -> Result<(), kube::Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(kind));
    let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let params = PostParams {
        field_manager: Some(MANAGER.into()),
        ..PostParams::default()
    };
    api.create(&params, &object).await.map(drop)
}

/// Sends the signs of life of every node there is, those of a dump and those a test makes later included.
async fn keep_alive(client: &Client) {
    let nodes = Api::<Node>::all(client.clone());
    loop {
        let mut pause = HEARTBEAT;
        match nodes.list(&ListParams::default()).await {
            Ok(list) => {
                for node in list {
                    let name = node.name_any();
                    if let Err(error) = renew(client, &nodes, &name).await {
                        tracing::debug!(%error, node = name, "no sign of life");
                        pause = Duration::from_millis(200);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot list the nodes");
                pause = Duration::from_millis(200);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn renew(client: &Client, nodes: &Api<Node>, name: &str) -> Result<(), kube::Error> {
    let time = now();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": time, "lastTransitionTime": time,
        })
    };
    let status = json!({"status": {"conditions": [
        condition("Ready", "True", "KubeletReady"),
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID"),
    ]}});
    nodes
        .patch_status(name, &manager(), &Patch::Strategic(status))
        .await?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": name, "leaseDurationSeconds": 40,
            "renewTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        },
    });
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease"));
    let leases = Api::<DynamicObject>::namespaced_with(client.clone(), "kube-node-lease", &kind);
    leases
        .patch(name, &manager().force(), &Patch::Apply(lease))
        .await
        .map(drop)
}

fn manager() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    }
}

/// Waits until there is a node and all of them are ready and may be scheduled to.
pub(crate) async fn wait_until_ready(
    client: &Client,
    mut alive: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let nodes = Api::<Node>::all(client.clone());
    super::poll("the nodes to be ready", Duration::from_mins(1), async || {
        alive()?;
        let list = nodes.list(&ListParams::default()).await?;
        Ok(!list.items.is_empty() && list.iter().all(is_ready))
    })
    .await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        && !taints
            .into_iter()
            .any(|taint| taint.key.starts_with("node.kubernetes.io/"))
}

struct Kubelet {
    client: Client,
    settings: pods::Settings,
    addresses: AtomicU32,
}

/// Watches all Pods. Every event starts a task of its own, which looks at the Pod afresh before it acts: what was
/// overtaken by another finds nothing to do.
async fn follow_pods(kubelet: &Arc<Kubelet>) {
    let pods = Api::<Pod>::all(kubelet.client.clone());
    loop {
        if let Err(error) = follow_pods_once(kubelet, &pods).await {
            tracing::debug!(%error, "watching the pods again");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn follow_pods_once(kubelet: &Arc<Kubelet>, pods: &Api<Pod>) -> Result<(), kube::Error> {
    let list = pods.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.clone().unwrap_or_default();
    list.items.into_iter().for_each(|pod| kubelet.take_up(pod));
    let mut events = pods.watch(&WatchParams::default(), &version).await?.boxed();
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => kubelet.take_up(pod),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => (),
            // Most often the version is too old by now: list again.
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
    Ok(())
}

impl Kubelet {
    fn take_up(self: &Arc<Self>, pod: Pod) {
        let step = pods::decide(&pod, &self.settings);
        if step == Step::Nothing {
            return;
        }
        let kubelet = Arc::clone(self);
        tokio::spawn(async move {
            if step != Step::Remove {
                tokio::time::sleep(kubelet.settings.delay).await;
            }
            while let Err(error) = kubelet.tend(&pod).await {
                tracing::debug!(%error, pod = pod.name_any(), "trying again");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
    }

    /// Does the next thing with the Pod, if it is still there. An error is a reason to try again.
    async fn tend(&self, seen: &Pod) -> Result<(), kube::Error> {
        let (namespace, name) = (seen.namespace().unwrap_or_default(), seen.name_any());
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let Some(pod) = pods.get_opt(&name).await?.filter(|pod| pod.uid() == seen.uid()) else {
            return Ok(());
        };
        let status = match pods::decide(&pod, &self.settings) {
            Step::Nothing => return Ok(()),
            Step::Remove => {
                let preconditions = Preconditions {
                    uid: pod.uid(),
                    ..Preconditions::default()
                };
                let params = DeleteParams::default()
                    .grace_period(0)
                    .preconditions(preconditions);
                return gone_is_fine(pods.delete(&name, &params).await.map(drop));
            }
            Step::Start => {
                self.check_sources(&namespace, &pod).await?;
                pods::running(&pod, &now(), &self.address(&pod))
            }
            Step::FailToPull { image } => pods::image_pull_failed(&pod, &now(), &image),
            Step::Finish => pods::succeeded(&pod, &now()),
        };
        let mut patch = status;
        patch["metadata"] = json!({"uid": pod.uid()});
        gone_is_fine(
            pods.patch_status(&name, &manager(), &Patch::Strategic(patch))
                .await
                .map(drop),
        )
    }

    /// Fails unless everything is there that the Pod mounts or reads.
    async fn check_sources(&self, namespace: &str, pod: &Pod) -> Result<(), kube::Error> {
        for source in pods::required_sources(pod) {
            match source {
                Source::ConfigMap(name) => {
                    Api::<ConfigMap>::namespaced(self.client.clone(), namespace)
                        .get_metadata(&name)
                        .await?;
                }
                Source::Secret(name) => {
                    Api::<Secret>::namespaced(self.client.clone(), namespace)
                        .get_metadata(&name)
                        .await?;
                }
            }
        }
        Ok(())
    }

    fn address(&self, pod: &Pod) -> String {
        let taken = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        taken.unwrap_or_else(|| {
            let number = self.addresses.fetch_add(1, Ordering::Relaxed);
            // Beside 10.233.0.0/16, where the recorded clusters' Pods live.
            Ipv4Addr::from_bits(Ipv4Addr::new(10, 234, 0, 1).to_bits() + number).to_string()
        })
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other,
    }
}
