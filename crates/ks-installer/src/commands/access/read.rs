//! Reading what access depends on, from a file or from the cluster.

use std::{
    io::Read,
    path::Path,
    sync::{Mutex, mpsc},
    thread,
};

use access::{FEDERATED_GROUP, FEDERATED_KINDS, LineKind, Loader, Records};
use anyhow::anyhow;
use cluster::{
    Scope,
    dump::{self, DumpError, Piece, Problem},
};

use release::Version;

use crate::{
    cli::Global,
    commands::{connect, dump_error, read_error},
    output,
};

/// A dump's objects, or the cluster's.
pub(super) async fn records(global: &Global, from: Option<&Path>) -> anyhow::Result<Records> {
    let Some(path) = from else {
        let cluster = connect(global).await?;
        let federated = FEDERATED_KINDS.map(|kind| (FEDERATED_GROUP, kind));
        let scope = Scope::upgrade().with_kinds(federated);
        let snapshot = cluster.snapshot(&scope).await.map_err(read_error)?;
        for unreadable in &snapshot.unreadable {
            output::note(&format!(
                "warning: {} is not looked at: {}",
                unreadable.resource, unreadable.message
            ));
        }
        return Ok(snapshot.objects.values().collect());
    };
    dump::source(path)
        .and_then(|(name, source)| read(&name, source))
        .map_err(dump_error)
}

/// One thread takes the compression off, others read the text.
fn read(name: &str, source: impl Read) -> Result<Records, DumpError> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (send, receive) = mpsc::sync_channel::<Piece>(workers * 2);
    let receive = Mutex::new(receive);
    // The memory of texts that are done with goes back.
    let (give_back, given_back) = mpsc::channel();
    thread::scope(|scope| {
        let receive = &receive;
        let readers: Vec<_> = (0..workers)
            .map(|_| {
                let give_back = give_back.clone();
                scope.spawn(move || -> Result<Loader, (usize, Problem)> {
                    let mut loader = Loader::default();
                    loop {
                        // Only taken for as long as a piece is waited for.
                        let piece = receive.lock().map_or(None, |pieces| pieces.recv().ok());
                        match piece {
                            None => return Ok(loader),
                            Some(Piece::Objects(objects)) => {
                                for object in &objects {
                                    loader.add(object);
                                }
                            }
                            Some(Piece::Lines(first, text)) => {
                                if let Err(error) = take_lines(&mut loader, first, &text) {
                                    // So that nobody waits to be rid of more.
                                    while receive.lock().is_ok_and(|pieces| pieces.recv().is_ok()) {}
                                    return Err(error);
                                }
                                // Nobody waits for the last.
                                let _ = give_back.send(text);
                            }
                        }
                    }
                })
            })
            .collect();
        let read = dump::read_pieces(name, source, |piece| {
            send.send(piece).ok()?;
            Some(given_back.try_recv().unwrap_or_default())
        });
        drop(send);
        let mut whole = Loader::default();
        let mut first_error: Option<(usize, Problem)> = None;
        for reader in readers {
            match reader.join() {
                Ok(Ok(loader)) => whole.absorb(loader),
                Ok(Err(error)) => {
                    if first_error.as_ref().is_none_or(|first| error.0 < first.0) {
                        first_error = Some(error);
                    }
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        if let Some((line, problem)) = first_error {
            return Err(DumpError {
                name: name.to_owned(),
                line: Some(line),
                problem,
            });
        }
        read.map(|()| whole.finish())
    })
}

fn take_lines(loader: &mut Loader, first: usize, text: &[u8]) -> Result<(), (usize, Problem)> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let before = text[..error.valid_up_to()].split(|byte| *byte == b'\n').count() - 1;
        (first + before, Problem::NotJson)
    })?;
    for (number, line) in text.lines().enumerate() {
        let number = first + number;
        if line.trim().is_empty() {
            continue;
        }
        loader.at(number);
        match loader.add_json(line) {
            Ok(LineKind::Object) => {}
            Ok(LineKind::Other) => {
                return Err((
                    number,
                    Problem::NotAnObject(object::ObjectError::Missing("kind or metadata.name")),
                ));
            }
            Err(error) if error.is_eof() => return Err((number, Problem::CutOff)),
            Err(_) => return Err((number, Problem::NotJson)),
        }
    }
    Ok(())
}

/// The version of KubeSphere that roles are judged by, and how it is known.
pub(super) fn installed(
    records: &Records,
    said: Option<&str>,
    known: &[Version],
    to: &Version,
) -> anyhow::Result<String> {
    if let Some(said) = said {
        return Ok(said.to_owned());
    }
    if let Some(version) = records.version() {
        return Ok(version.to_owned());
    }
    if records.counts()[1] == 0 {
        return Err(anyhow!(
            "there are no roles to look at\nhint: a dump needs roles, bindings, users, groups, namespaces and workspaces"
        ));
    }
    // The last one before the target's own line: what most come from.
    let is_before = |version: &&Version| (version.major(), version.minor()) < (to.major(), to.minor());
    let Some(likely) = known.iter().rev().find(is_before) else {
        return Err(anyhow!(
            "the ClusterConfiguration does not say which KubeSphere this is\nhint: say it with --installed"
        ));
    };
    output::note(&format!(
        "warning: the ClusterConfiguration does not say which KubeSphere this is: {likely} is taken; say another with --installed"
    ));
    Ok(likely.to_string())
}
