//! What does not work in the cluster: images, pods, claims, services.

use crate::Sandbox;
use crate::controllers;
use crate::json::{list_at, text};

/// Something of the cluster that does not work. Names are patterns in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No node can pull these images. Pods that run already go on.
    UnpullableImage { image: String },
    /// The containers of these pods, `NAMESPACE/NAME`, end as soon as they start. Pods that run already go down, too.
    CrashingPod { pod: String, exit_code: i32 },
    /// These claims, `NAMESPACE/NAME`, are never bound. Those that are bound already stay so.
    UnboundClaim { claim: String },
    /// Nobody answers behind these services, `NAMESPACE/NAME`: their endpoints are gone.
    DeadService { service: String },
}

/// Troubles as a file lists them.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Listed {
    images: Vec<String>,
    pods: Vec<String>,
    claims: Vec<String>,
    services: Vec<String>,
}

/// Why a text lists no troubles.
#[derive(Debug, Clone, thiserror::Error)]
#[error("not lists of images, pods, claims and services: {0}")]
pub struct TroubleError(String);

impl Trouble {
    /// Reads troubles from YAML: lists `images` that are never pulled, `pods` that crash, `claims` that are never bound and
    /// `services` that nobody answers behind. Webhooks behind such a service are down.
    ///
    /// # Errors
    ///
    /// When the text is something else.
    pub fn read(text: &str) -> Result<Vec<Trouble>, TroubleError> {
        let listed: Listed = serde_saphyr::from_str(text).map_err(|error| TroubleError(error.to_string()))?;
        let images = listed
            .images
            .into_iter()
            .map(|image| Trouble::UnpullableImage { image });
        let pods = listed
            .pods
            .into_iter()
            .map(|pod| Trouble::CrashingPod { pod, exit_code: 1 });
        let claims = listed
            .claims
            .into_iter()
            .map(|claim| Trouble::UnboundClaim { claim });
        let services = listed
            .services
            .into_iter()
            .map(|service| Trouble::DeadService { service });
        Ok(images.chain(pods).chain(claims).chain(services).collect())
    }
}

/// All troubles of a cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Troubles(Vec<Trouble>);

/// What keeps a pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Affliction {
    Image(String),
    Crash(i32),
}

impl Troubles {
    /// What keeps a pod with this name and spec from running.
    pub(crate) fn of_pod(&self, namespace: &str, name: &str, pod: &serde_json::Value) -> Option<Affliction> {
        if self.0.is_empty() {
            return None;
        }
        let path = format!("{namespace}/{name}");
        let images = ["/spec/initContainers", "/spec/containers"]
            .into_iter()
            .flat_map(|key| list_at(pod, key))
            .map(|container| text(container, "image"));
        let unpullable = images.into_iter().find(|image| self.is_unpullable(image));
        if let Some(image) = unpullable {
            return Some(Affliction::Image(image.to_owned()));
        }
        self.0.iter().find_map(|trouble| match trouble {
            Trouble::CrashingPod { pod, exit_code } if matches(pod, &path) => {
                Some(Affliction::Crash(*exit_code))
            }
            _ => None,
        })
    }

    pub(crate) fn is_unpullable(&self, image: &str) -> bool {
        self.any(|trouble| matches!(trouble, Trouble::UnpullableImage { image: pattern } if matches(pattern, image)))
    }

    pub(crate) fn is_unbound(&self, namespace: &str, name: &str) -> bool {
        let path = format!("{namespace}/{name}");
        self.any(|trouble| matches!(trouble, Trouble::UnboundClaim { claim } if matches(claim, &path)))
    }

    pub(crate) fn is_dead(&self, namespace: &str, name: &str) -> bool {
        let path = format!("{namespace}/{name}");
        self.any(|trouble| matches!(trouble, Trouble::DeadService { service } if matches(service, &path)))
    }

    fn any(&self, test: impl Fn(&Trouble) -> bool) -> bool {
        self.0.iter().any(test)
    }
}

/// Whether a text is as a pattern has it.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

impl Sandbox {
    /// From now on something does not work, in this cluster and its later forks.
    pub fn afflict(&self, trouble: Trouble) {
        self.set_troubles(|troubles| troubles.0.push(trouble));
    }

    /// Everything works again, and what waited for it goes on.
    pub fn heal(&self) {
        self.set_troubles(|troubles| troubles.0.clear());
    }

    fn set_troubles(&self, change: impl FnOnce(&mut Troubles)) {
        self.shared.simulate(|transaction| {
            let mut troubles = Troubles::clone(&transaction.state.troubles);
            change(&mut troubles);
            transaction.state.troubles = troubles.into();
            controllers::look_again(transaction)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, text: &str, expect: bool| {
            assert_eq!(matches(pattern, text), expect, "{pattern} {text}");
        };
        check("a/b:1", "a/b:1", true);
        check("a/b:1", "a/b:12", false);
        check("a/*", "a/b:1", true);
        check("*:v3.3.1", "kubesphere/ks-apiserver:v3.3.1", true);
        check("*:v3.3.1", "kubesphere/ks-apiserver:v3.2.1", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("ab*bc", "abc", false);
        check("*", "", true);
    }
}
