//! Notices that the configuration file changed, however it was changed.
//!
//! Editors rename, Kubernetes swaps a `..data` link beside the file, `sed -i` replaces it, `>` empties
//! it and writes in pieces, and some mounts send no events at all. So the parent folder is watched and
//! not the file; an event only means "look again", and the bytes decide. A file that somebody has open
//! for writing is left alone until it is closed, or until it has been quiet for a while; a slow poll
//! finds what no event told.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::reload::Reloader;
use crate::clock;

/// After the last sign that the file is complete, how long to wait for more of them.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a file that is replaced again and again keeps the last of it waiting.
const STORM: Duration = Duration::from_millis(500);
/// After the last write to a file that stays open: somebody may be writing it piece by piece.
const QUIET: Duration = Duration::from_secs(5);
/// However long somebody goes on writing, the file is looked at after this time.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the file is looked at without any event.
const POLL: Duration = Duration::from_secs(5);

/// What an event tells about the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It may be complete: closed after writing, renamed, linked anew.
    Complete,
    /// Somebody is writing.
    Writing,
}

/// Watches until the process ends.
pub async fn watch(reloader: Arc<Reloader>) {
    let Some(path) = reloader.source().path().map(Path::to_path_buf) else { return };
    let (events, mut signs) = mpsc::unbounded_channel();
    let mut places = Places::of(&path);
    let mut watcher = start(&places, events.clone());
    // What changed since the file was read first was not seen by anybody.
    reload(&reloader, "start");
    loop {
        let trigger = match tokio::time::timeout(POLL, signs.recv()).await {
            Ok(None) | Err(_) => "poll",
            Ok(Some(first)) => {
                settle(first, &mut signs).await;
                "file changed"
            }
        };
        let now = Places::of(&path);
        if now != places {
            // A link on the way to the file was turned, so it is in another folder now.
            drop(watcher);
            watcher = start(&now, events.clone());
            places = now;
        }
        reload(&reloader, trigger);
    }
}

fn reload(reloader: &Reloader, trigger: &str) {
    // The outcome is logged, counted and kept by the reloader.
    drop(reloader.reload(trigger));
}

/// Waits until the file has been left alone.
async fn settle(first: Sign, signs: &mut mpsc::UnboundedReceiver<Sign>) {
    let quiet = async {
        let (mut sign, begun) = (first, clock::now());
        loop {
            let patience = match sign {
                Sign::Complete if clock::now() - begun > STORM => return,
                Sign::Complete => SETTLE,
                Sign::Writing => QUIET,
            };
            match tokio::time::timeout(patience, signs.recv()).await {
                Ok(Some(next)) => sign = next,
                Ok(None) | Err(_) => return,
            }
        }
    };
    // Running out of time means the same: look now.
    drop(tokio::time::timeout(LONGEST, quiet).await);
}

/// Where the file is, through all links.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    /// The folder of the file, and that of the file which it links to.
    folders: Vec<PathBuf>,
    /// The names that it has there.
    names: Vec<OsString>,
}

impl Places {
    fn of(path: &Path) -> Self {
        let parent = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut folders = vec![parent(path)];
        let mut names: Vec<OsString> = path.file_name().map(OsStr::to_owned).into_iter().collect();
        if let Ok(target) = path.canonicalize() {
            let folder = parent(&target);
            if folders[0].canonicalize().ok().as_ref() != Some(&folder) {
                folders.push(folder);
            }
            names.extend(target.file_name().map(OsStr::to_owned));
        }
        Self { folders, names }
    }
}

fn start(places: &Places, signs: mpsc::UnboundedSender<Sign>) -> Option<RecommendedWatcher> {
    let names = places.names.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if let Some(sign) = event.ok().filter(|event| concerns(event, &names)).and_then(|event| sign_of(event.kind)) {
            // The receiver is gone only when the process ends.
            let _ = signs.send(sign);
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "no file events on this system; the configuration is polled every {POLL:?}");
            return None;
        }
    };
    for folder in &places.folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "cannot watch this folder; it is polled every {POLL:?}");
        }
    }
    Some(watcher)
}

/// Whether an event may be about the file: it names it, or one of the links (`..data`) by which
/// Kubernetes swaps a whole folder.
fn concerns(event: &Event, names: &[OsString]) -> bool {
    event.paths.is_empty()
        || event
            .paths
            .iter()
            .filter_map(|path| path.file_name())
            .any(|name| names.iter().any(|known| known == name) || name.as_encoded_bytes().starts_with(b".."))
}

fn sign_of(kind: EventKind) -> Option<Sign> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) => Some(Sign::Complete),
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Sign::Writing),
        EventKind::Access(_) => None,
    }
}
