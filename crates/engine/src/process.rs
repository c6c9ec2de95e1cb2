//! Which process of which machine, so that one that was killed is known to be gone by the next run beside it.
//!
//! Only Linux tells enough; elsewhere nothing is known, and a claim ends by its time.

use std::{fs, path::Path};

/// This process: boot of the machine, PID namespace, PID and when it started, in clock ticks since the boot. Together they
/// never come again.
pub(crate) fn identity() -> Option<String> {
    let pid = std::process::id();
    Some(format!("{} {pid} {}", machine()?, started(pid)?))
}

/// Whether this identity is of a process of this machine, and that process is no more. `false` where it cannot be known.
pub(crate) fn is_gone(identity: &str) -> bool {
    let Some(rest) = machine().and_then(|machine| identity.strip_prefix(&machine)) else {
        return false;
    };
    let mut parts = rest.split_ascii_whitespace();
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    match (pid, parts.next()) {
        (Some(pid), Some(then)) => {
            Path::new("/proc/self").exists() && started(pid).is_none_or(|now| now != then)
        }
        _ => false,
    }
}

fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// Field 22 of `/proc/PID/stat` (proc(5)), counted from behind the name, which may hold anything. A process that has ended
/// and that nobody has waited for yet counts as gone.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    fields.nth(18).map(str::to_owned)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_this_machine_that_has_ended_is_gone() {
        let mine = identity().unwrap();
        assert!(!is_gone(&mine));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = format!(
            "{} {} {}",
            machine().unwrap(),
            child.id(),
            started(child.id()).unwrap()
        );
        assert!(!is_gone(&other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&other));
        // Its number was given to somebody else.
        let reused = format!("{} {} 1", machine().unwrap(), std::process::id());
        assert!(is_gone(&reused));
        // Of another machine, or nothing that can be understood.
        assert!(!is_gone(&other.replacen(|c: char| c.is_ascii_hexdigit(), "x", 1)));
        assert!(!is_gone(""));
        assert!(!is_gone(&machine().unwrap()));
    }
}
