//! The processes of one instance: started together, and gone when their owner is, however it ends.
//!
//! Dropping [`Processes`] kills them, also while a panic unwinds. Where the owner is killed outright, nothing of
//! it runs any more; for that case a small shell waits on a pipe whose other end the owner holds, and kills the rest
//! once the pipe breaks. (The kernel's parent-death signal would need `unsafe`, and fires when the *thread* that
//! started the child ends, which a test thread does.) What even that misses, [`sweep`] finds by the state file.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Error;

const PREFIX: &str = "ks-control-plane-";
const STATE: &str = "state.json";

/// What is known about an instance from outside of the process that owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The process that started it.
    pub owner: u32,
    /// The owner's start time in the kernel's ticks: tells it from a later process of the same number.
    owner_started: u64,
    /// Whether it was started by `up`, thus meant to be stopped by `down`.
    pub standing: bool,
    pub server: String,
    pub kubeconfig: PathBuf,
    pids: Vec<u32>,
}

/// Folders in which instances keep their data: memory where there is some, since etcd syncs every write.
fn roots() -> impl Iterator<Item = PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    memory
        .is_dir()
        .then_some(memory)
        .into_iter()
        .chain([std::env::temp_dir()])
}

pub(crate) fn new_folder() -> Result<tempfile::TempDir, Error> {
    let mut last = None;
    for root in roots() {
        match tempfile::Builder::new().prefix(PREFIX).tempdir_in(&root) {
            Ok(folder) => return Ok(folder),
            Err(source) => last = Some(Error::file(&root, source)),
        }
    }
    Err(last.unwrap_or_else(|| Error::Unavailable("there is no folder for temporary files".into())))
}

pub(crate) struct Processes {
    folder: PathBuf,
    children: Vec<(String, Child)>,
    reaper: Option<Child>,
}

impl Processes {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            children: Vec::new(),
            reaper: None,
        }
    }

    /// Kills a program.
    pub(crate) fn kill(&mut self, name: &str) {
        if let Some(index) = self.children.iter().position(|(child, _)| child == name) {
            let (_, mut child) = self.children.remove(index);
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a program with its output at the end of `NAME.log` of the instance's folder.
    pub(crate) fn start(&mut self, name: &str, program: &Path, arguments: &[String]) -> Result<(), Error> {
        let path = self.log(name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(|source| Error::file(&path, source))?;
        let errors = log.try_clone().map_err(|source| Error::file(&path, source))?;
        // One process group for all, its own: Ctrl-C reaches the owner only, which ends them in order.
        let group = self
            .children
            .first()
            .and_then(|(_, child)| i32::try_from(child.id()).ok())
            .unwrap_or(0);
        let child = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(group)
            .spawn()
            .map_err(|source| Error::file(program, source))?;
        if self.reaper.is_none() {
            self.reaper = Some(start_reaper(child.id(), &self.folder)?);
        }
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    /// Fails with the end of its log if one of the programs has ended.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        for (name, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
                return Err(Error::Ended {
                    program: name.clone(),
                    status: status.to_string(),
                    output: super::last_lines(&log, 20),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Makes the instance known to `down` and [`sweep`].
    pub(crate) fn publish(&self, standing: bool, server: &str, kubeconfig: &Path) -> Result<Instance, Error> {
        let owner = std::process::id();
        let instance = Instance {
            owner,
            owner_started: started(owner).unwrap_or_default(),
            standing,
            server: server.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            pids: self.children.iter().map(|(_, child)| child.id()).collect(),
        };
        let path = self.folder.join(STATE);
        let text = serde_json::to_vec(&instance).expect("an instance is made of strings and numbers");
        fs::write(&path, text).map_err(|source| Error::file(&path, source))?;
        Ok(instance)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // etcd first in, last out: the others would fill their logs with complaints, and slow the end.
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(reaper) = &mut self.reaper {
            let _ = reaper.kill();
            let _ = reaper.wait();
        }
    }
}

fn start_reaper(group: u32, folder: &Path) -> Result<Child, Error> {
    let script = r#"cat >/dev/null; kill -s KILL -- "-$1" 2>/dev/null; sleep 0.2; rm -rf -- "$2""#;
    Command::new("sh")
        .args(["-c", script, "reaper", &group.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::file(Path::new("sh"), source))
}

/// When a process started, in the kernel's ticks; `None` if there is no such process (any more).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The instances on this machine whose owner is alive, with their folders.
pub fn instances() -> Vec<Instance> {
    found()
        .into_iter()
        .map(|(_, instance)| instance)
        .filter(Instance::is_owned)
        .collect()
}

/// Removes what is left of instances whose owner died, and returns how many those were.
pub fn sweep() -> usize {
    let dead: Vec<_> = found()
        .into_iter()
        .filter(|(_, instance)| !instance.is_owned())
        .collect();
    for (folder, instance) in &dead {
        let ours = |pid: &&u32| {
            // Numbers are reused: only a process that names this folder in its arguments is one of ours.
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy()))
        };
        signal(
            "KILL",
            &instance.pids.iter().filter(ours).copied().collect::<Vec<_>>(),
        );
        let _ = fs::remove_dir_all(folder);
    }
    dead.len()
}

impl Instance {
    fn is_owned(&self) -> bool {
        started(self.owner) == Some(self.owner_started)
    }

    /// Asks the owner to end the instance, and waits until it is gone or ten seconds are over.
    pub fn stop(&self) -> bool {
        signal("TERM", &[self.owner]);
        for _ in 0..100 {
            if !self.is_owned() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        false
    }
}

fn found() -> Vec<(PathBuf, Instance)> {
    let mut found = Vec::new();
    for root in roots() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let folder = entry.path();
            let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            let state = is_ours.then(|| fs::read(folder.join(STATE)).ok()).flatten();
            if let Some(instance) = state.and_then(|text| serde_json::from_slice(&text).ok()) {
                found.push((folder, instance));
            }
        }
    }
    found
}

fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let script = format!(r#"kill -{name} "$@""#);
    let _ = Command::new("sh")
        .args(["-c", &script, "kill"])
        .args(pids.iter().map(ToString::to_string))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Ports that are free now, each another. Somebody else may take one before it is used; then the program that
/// wanted it ends at once, and [`Processes::check`] says so.
pub(crate) fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT], Error> {
    let mut listeners = Vec::with_capacity(COUNT);
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(Error::Port)?;
        *port = listener.local_addr().map_err(Error::Port)?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sleeper(folder: &Path) -> (Processes, u32) {
        let mut processes = Processes::new(folder);
        let arguments = [
            "-c".to_owned(),
            "sleep 1000; :".to_owned(),
            folder.display().to_string(),
        ];
        processes
            .start("sleeper", Path::new("/bin/sh"), &arguments)
            .unwrap();
        let pid = processes.children[0].1.id();
        (processes, pid)
    }

    fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !met() {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{what} did not come about"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn children_end_when_a_panic_unwinds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (_processes, pid) = sleeper(&path);
            sender.send((pid, started(pid))).unwrap();
            panic!("a test that fails");
        });
        let (pid, begun) = receiver.recv().unwrap();
        assert!(thread.join().is_err());
        assert!(begun.is_some());
        assert_ne!(started(pid), begun);
    }

    #[test]
    fn the_reaper_kills_the_group_and_clears_up_once_the_owner_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let instance = folder.path().join("instance");
        fs::create_dir(&instance).unwrap();
        let (mut processes, pid) = sleeper(&instance);
        // What the kernel does to an owner that is killed: its end of the pipe is closed.
        drop(processes.reaper.as_mut().unwrap().stdin.take());
        wait_until("the end of the child", || started(pid).is_none());
        wait_until("the removal of the folder", || !instance.exists());
    }

    #[test]
    fn an_early_end_is_reported_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(folder.path());
        let arguments = ["-c".to_owned(), "echo address already in use; exit 3".to_owned()];
        processes.start("etcd", Path::new("/bin/sh"), &arguments).unwrap();
        let mut error = None;
        wait_until("the end of the child", || {
            error = processes.check().err();
            error.is_some()
        });
        let text = error.unwrap().to_string();
        assert!(
            text.contains("etcd") && text.contains("address already in use"),
            "{text}"
        );
    }

    #[test]
    fn free_ports_differ() {
        let [a, b, c] = free_ports().unwrap();
        assert!(a != b && b != c && a != c);
    }
}
