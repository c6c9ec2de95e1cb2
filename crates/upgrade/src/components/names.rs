//! Components by name.

use release::{Component, Release};

/// No component has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{release} has no component {name:?}")]
pub struct UnknownComponent {
    pub name: String,
    pub release: String,
    /// What was probably meant.
    pub nearest: Option<String>,
    pub known: Vec<String>,
}

impl UnknownComponent {
    pub fn hint(&self) -> String {
        match &self.nearest {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("it has {}", self.known.join(", ")),
        }
    }
}

/// A component by its name, or as its setting is called: `metrics-server`, `metrics_server`.
///
/// # Errors
/// There is none of that name.
pub fn find<'a>(release: &'a Release, name: &str) -> Result<&'a Component, UnknownComponent> {
    let by_name = release.component(name);
    let by_setting = || {
        release
            .components
            .iter()
            .find(|component| setting(component) == Some(name))
    };
    let by_words = || {
        release
            .components
            .iter()
            .find(|component| component.name == name.replace('_', "-"))
    };
    by_name
        .or_else(by_setting)
        .or_else(by_words)
        .ok_or_else(|| UnknownComponent {
            name: name.to_owned(),
            release: release.version.to_string(),
            nearest: nearest(release, name),
            known: release
                .components
                .iter()
                .map(|component| component.name.clone())
                .collect(),
        })
}

/// The setting below which a component is switched: `openpitrix.store`.
fn setting(component: &Component) -> Option<&str> {
    let path = component.switch.as_ref()?.paths.first()?;
    Some(path.rsplit_once('.')?.0)
}

fn nearest(release: &Release, name: &str) -> Option<String> {
    let tolerated = (name.chars().count() / 3).clamp(1, 3);
    let lower = name.to_lowercase().replace('_', "-");
    let names = release.components.iter().map(|component| component.name.as_str());
    let close = names.map(|known| (strsim::osa_distance(&lower, known), known));
    let closest = close.min().filter(|(distance, _)| *distance <= tolerated);
    let contained = || {
        let mut holding = release
            .components
            .iter()
            .filter(|component| component.name.contains(&lower));
        holding
            .next()
            .map(|component| component.name.clone())
            .filter(|_| lower.len() > 2)
    };
    closest.map(|(_, known)| known.to_owned()).or_else(contained)
}
