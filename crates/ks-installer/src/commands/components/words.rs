//! Components, as people read of them.

use std::fmt::Write as _;

use upgrade::components::{Amount, ComponentInfo, Room, State};

use crate::output::text;

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Enabled => "enabled",
        State::Pending => "not yet there",
        State::Installing => "being enabled, or failed",
        State::Unhealthy => "unhealthy",
        State::LeftOut => "left out",
        State::Leaving => "not yet gone",
        State::RunsThoughOff => "runs, though switched off",
        State::Disabled => "disabled",
    }
}

/// `1.5 CPU, 2.0 GiB`
fn amount(amount: &Amount) -> String {
    format!(
        "{} CPU, {}",
        cpu(amount.cpu_millicores),
        memory(amount.memory_bytes)
    )
}

/// `120m`, `1.5`
fn cpu(millicores: i64) -> String {
    match millicores {
        0 => "0".to_owned(),
        -999..1000 => format!("{millicores}m"),
        // Whole thousands and their tenths are exact enough.
        more => format!("{}.{}", more / 1000, (more % 1000).abs() / 100),
    }
}

/// `64 MiB`, `2.5 GiB`
fn memory(bytes: i64) -> String {
    const MIB: i64 = 1 << 20;
    let mib = bytes / MIB;
    if mib.abs() < 1024 {
        return format!("{mib} MiB");
    }
    format!("{}.{} GiB", mib / 1024, (mib % 1024).abs() * 10 / 1024)
}

pub(super) fn room(room: &Room) -> String {
    if room.allocatable == Amount::default() {
        return "what the nodes have left is not known".to_owned();
    }
    format!(
        "{} with {} left of {}",
        text::count(room.nodes, "node"),
        amount(&room.free),
        amount(&room.allocatable)
    )
}

/// `v3.3.1`, `v3.2.1 → v3.3.1`, `(v3.3.1)`
fn version(component: &ComponentInfo) -> String {
    match &component.version {
        Some(version) if *version == component.release => version.clone(),
        Some(version) => format!("{version} → {}", component.release),
        None => format!("({})", component.release),
    }
}

/// One line for each, and below it what is out of the ordinary.
pub(super) fn table(all: &[ComponentInfo]) -> String {
    let rows = all.iter().map(|component| {
        [
            component.name.clone(),
            state(component.state).to_owned(),
            version(component),
            component.objects.len().to_string(),
            component.images.len().to_string(),
            cpu(component.requests.cpu_millicores),
            memory(component.requests.memory_bytes),
            component.about.clone(),
        ]
    });
    let heading = [
        "NAME", "STATE", "VERSION", "OBJECTS", "IMAGES", "CPU", "MEMORY", "ABOUT",
    ]
    .map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::from("\n");
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        line.push_str(&row[7]);
        let _ = writeln!(out, "{}", line.trim_end());
        if let Some(component) = index.checked_sub(1).and_then(|index| all.get(index)) {
            for line in remarks(component) {
                let _ = writeln!(out, "    {line}");
            }
        }
    }
    out
}

/// What is to be known before it is switched.
fn remarks(component: &ComponentInfo) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(component.reason.clone());
    for check in &component.failed_checks {
        // The reason of one that is left out says it already.
        if component.state != State::LeftOut || check.warning {
            lines.push(check_line(check));
        }
    }
    let mut list = |title: &str, names: &[String]| {
        if !names.is_empty() {
            lines.push(format!("{title}: {}", names.join(", ")));
        }
    };
    list("drawn in by", &component.drawn_in_by);
    list("needed by", &component.needed_by);
    list("keeps when disabled", &keeps(component));
    if !component.brings.is_empty() {
        lines.push(brings(component));
    }
    lines
}

/// `minio, openldap; with them 67 objects, 40 images, 2.5 CPU, 4.5 GiB`
fn brings(component: &ComponentInfo) -> String {
    let whole = &component.whole;
    format!(
        "brings: {}; with that {}, {}, {}",
        component.brings.join(", "),
        text::count(whole.objects, "object"),
        text::count(whole.images.len(), "image"),
        amount(&whole.requests)
    )
}

/// What stays when it goes, each once; of what cannot be switched nothing goes.
fn keeps(component: &ComponentInfo) -> Vec<String> {
    let mut keeps: Vec<String> = Vec::new();
    if component.switch.is_some() || !component.drawn_in_by.is_empty() {
        for data in &component.data {
            if !keeps.contains(&data.about) {
                keeps.push(data.about.clone());
            }
        }
    }
    keeps
}

/// Without the hint a check is only half of what there is to say.
fn check_line(check: &release::Check) -> String {
    let word = if check.warning {
        "warning"
    } else {
        "stands in the way"
    };
    format!("{word}: {} [{}]; {}", check.message, check.reason, check.hint)
}

/// Everything about one.
pub(super) fn details(component: &ComponentInfo, room: &Room) -> String {
    let mut out = format!("\n{}: {}\n", text::bold(&component.name), component.about);
    let mut line = |title: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {title}: {value}");
        }
    };
    line("state", state(component.state).to_owned());
    line("why", component.reason.clone().unwrap_or_default());
    line("version", version(component));
    let switch = component.switch.as_ref().map(|switch| {
        let paths = switch.paths.iter().map(|path| format!("spec.{path}"));
        let paths = paths.collect::<Vec<_>>().join(" and ");
        format!("{paths}: {} or {}", switch.on, switch.off)
    });
    line("switch", switch.unwrap_or_else(|| "none of its own".to_owned()));
    line("drawn in by", component.drawn_in_by.join(", "));
    line("comes after", component.needs.join(", "));
    line("needed by", component.needed_by.join(", "));
    if !component.brings.is_empty() {
        line(
            "brings",
            brings(component).trim_start_matches("brings: ").to_owned(),
        );
    }
    for check in &component.failed_checks {
        line("check", check_line(check));
    }
    let fits = if room.allocatable == Amount::default() || component.whole.requests.fits_in(&room.free) {
        ""
    } else {
        "; the nodes have less left"
    };
    let is_there = ![State::Disabled, State::Pending, State::LeftOut].contains(&component.state);
    line(
        "its pods ask for",
        format!(
            "{}{}",
            amount(&component.requests),
            if is_there { "" } else { fits }
        ),
    );
    line("keeps when disabled", keeps(component).join(", "));
    let mut all = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            let _ = writeln!(out, "  {title} ({}):", items.len());
            for item in items {
                let _ = writeln!(out, "    {item}");
            }
        }
    };
    all("what enabling it does besides", component.effects.clone());
    all(
        "data that is there",
        component.data_there.iter().map(ToString::to_string).collect(),
    );
    all("images", component.images.clone());
    all(
        "objects",
        component.objects.iter().map(ToString::to_string).collect(),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        let check = |cpu_millicores, memory_bytes, expect: &str| {
            let found = amount(&Amount {
                cpu_millicores,
                memory_bytes,
            });
            assert_eq!(found, expect);
        };
        check(0, 0, "0 CPU, 0 MiB");
        check(120, 64 << 20, "120m CPU, 64 MiB");
        check(2550, (5 << 30) / 2, "2.5 CPU, 2.5 GiB");
        check(-1500, -(3 << 29), "-1.5 CPU, -1.5 GiB");
    }
}
