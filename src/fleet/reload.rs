//! The one way to a new configuration, whoever asks: the file watcher, SIGHUP, the admin listener.
//!
//! Read, parse, validate, compile, swap; any error leaves what runs as it is. A change that cannot be
//! made while the process runs refuses the whole file and names the change: a file that is half in
//! force would be a lie.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;

use super::compile::{CompileError, Surroundings, compile_next, pages_stamp};
use super::sockets::{BindError, Sockets};
use super::store::Store;
use crate::clock;
use crate::config::overlay::Edit;
use crate::config::types::Config;
use crate::config::{self, Diagnostics, Loaded, Overlay};
use crate::history::History;
use crate::history::settings::Settings;
use crate::policy::notification::Kind;
use crate::telemetry::logging::LogLevel;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_manager::ServiceManager;

mod change;

pub use change::{Changed, NO_FOLDER, SaveError, Saved, changes_kept};

/// Where configurations come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A text that this program made, from the command line or for the demo.
    Text(String),
}

impl Source {
    /// Reads and validates.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Diagnostics> {
        self.load_with(&Overlay::default())
    }

    /// The same with what was changed at run time.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load_with(&self, overlay: &Overlay) -> Result<Loaded, Diagnostics> {
        let env = |name: &str| std::env::var(name).ok();
        match self {
            Self::File(path) => config::load(path, overlay, &env),
            Self::Text(text) => config::parse_with("command line", text, overlay, &env),
        }
    }

    /// Hash of what is there now, without checking it; `None` when it cannot be read.
    fn hash(&self, overlay: &Overlay) -> Option<String> {
        match self {
            Self::File(path) => config::hash_of(path, overlay),
            Self::Text(_) => None,
        }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The file is in force.
    Applied,
    /// It was in force already.
    Unchanged,
}

/// Why a reload was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The file is not a configuration.
    #[error("{}", .0.render(false))]
    Invalid(Diagnostics),
    /// It changes what only a restart can change.
    #[error("needs a restart, so nothing was changed: {}", .0.join("; "))]
    NeedsRestart(Vec<String>),
    /// It cannot run.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An address of a listener cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It came too late.
    #[error("the process is stopping, so nothing was changed")]
    Stopping,
    /// Whoever asks for the change does not know what is in force; this is its hash.
    #[error("the configuration was changed in the meantime, its hash is `{0}`: read it again")]
    Stale(String),
    /// The change makes this process run programs, read files or open sockets, and just anybody may have asked for it.
    #[error(
        "`{0}` is changed in the file only, or with a token: without `admin.token_file`, and without an `admin.address` that is a \
         unix socket, every user of the machine may call this API"
    )]
    NeedsToken(String),
    /// The change cannot be made as things are.
    #[error("{0}")]
    NotPossible(String),
}

/// A change at run time with who made it and when (seconds since 1970).
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct Change {
    /// What was changed.
    pub edit: Edit,
    /// Who changed it.
    pub who: String,
    /// When.
    pub at: f64,
}

/// The configuration in force and where it comes from.
#[derive(Clone, Debug)]
pub struct InForce {
    /// What it says.
    pub config: Config,
    /// What the file says as it is typed.
    pub file: Json,
    /// The same with the changes.
    pub written: Json,
    /// What was changed at run time, the oldest first.
    pub changes: Vec<Change>,
    /// Places of changes that the file has no longer.
    pub lost: Vec<String>,
}

impl InForce {
    /// What was loaded, with the changes that were laid over it.
    #[must_use]
    pub fn new(loaded: Loaded, changes: Vec<Change>) -> Self {
        let Loaded { config, file, written, lost, .. } = loaded;
        Self { config, file, written, changes, lost }
    }

    fn overlay(&self) -> Overlay {
        overlay_of(&self.changes)
    }
}

/// What changes amount to.
#[must_use]
pub fn overlay_of(changes: &[Change]) -> Overlay {
    changes.iter().map(|change| change.edit.clone()).collect()
}

/// How the last reload went, for whoever asks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Whether the file on disk is in force.
    pub in_force: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a reload acts on.
pub struct Around {
    /// What runs.
    pub store: Arc<Store>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The level of the log.
    pub log_level: LogLevel,
    /// The sockets of the listeners.
    pub sockets: Arc<Sockets>,
    /// Is told that a reload begins and ends.
    pub manager: Arc<ServiceManager>,
    /// Keeps changes.
    pub history: Arc<History>,
}

/// Makes reloads, one at a time.
pub struct Reloader {
    source: Source,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    log_level: LogLevel,
    sockets: Arc<Sockets>,
    manager: Arc<ServiceManager>,
    history: Arc<History>,
    /// The configuration in force; `None` once there is to be no other.
    current: Mutex<Option<InForce>>,
    status: Mutex<Status>,
}

impl Reloader {
    /// Begins with the configuration that the store's first snapshot was compiled from.
    pub fn new(source: Source, first: InForce, around: Around) -> Self {
        let Around { store, metrics, log_level, sockets, manager, history } = around;
        let status = Status { in_force: true, error: None };
        Self {
            source,
            store,
            metrics,
            log_level,
            sockets,
            manager,
            history,
            current: Mutex::new(Some(first)),
            status: Mutex::new(status),
        }
    }

    /// From here on every reload is refused: the process stops.
    pub fn close(&self) {
        *self.current.lock() = None;
    }

    /// Where configurations come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How the last reload went.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Puts what the source has now in force; `trigger` says in the log who asked.
    ///
    /// # Errors
    /// Why it was refused; what ran before still runs.
    pub fn reload(&self, trigger: &str) -> Result<Reloaded, Refused> {
        let mut current = self.current.lock();
        let result = self.try_reload(&mut current);
        let (word, status) = match &result {
            Ok(Reloaded::Applied) => ("applied", Status { in_force: true, error: None }),
            Ok(Reloaded::Unchanged) => ("unchanged", Status { in_force: true, error: None }),
            Err(refused) => ("refused", Status { in_force: false, error: Some(refused.to_string()) }),
        };
        let before = std::mem::replace(&mut *self.status.lock(), status);
        match &result {
            Ok(Reloaded::Applied) => {
                tracing::info!(trigger, hash = %self.store.load().hash, "configuration applied");
                self.tell(Kind::ConfigApplied, &format!("the configuration is in force ({trigger})"));
            }
            Ok(Reloaded::Unchanged) => {
                tracing::debug!(trigger, "configuration unchanged");
                // Somebody may have put the file back that is in force.
                if !before.in_force {
                    self.tell(Kind::ConfigApplied, &format!("the file is the one that is in force ({trigger})"));
                }
            }
            Err(refused) => {
                let error = refused.to_string();
                // The slow poll and editors ask often; one message for one mistake.
                if before.error.as_deref() != Some(&error) {
                    tracing::error!(trigger, "configuration refused, the one before stays in force\n{error}");
                    let message = format!("the configuration was refused ({trigger}): {error}");
                    self.tell(Kind::ConfigRefused, &message);
                }
            }
        }
        self.metrics.reloaded(word);
        // Who asks for a reload after renewing certificates or tokens has them in force when it returns.
        let in_force = self.store.pin();
        in_force.refresh_certificates(clock::unix_seconds(), &self.metrics);
        in_force.admin.refresh();
        result
    }

    /// Tells what became of the file, whoever cares.
    fn tell(&self, kind: Kind, message: &str) {
        let file = self.source.path().map_or_else(|| "configuration".to_owned(), |path| path.display().to_string());
        self.store.load().lasting.telling.events.tell(kind, file, message);
    }

    fn try_reload(&self, current: &mut Option<InForce>) -> Result<Reloaded, Refused> {
        let Some(before) = current.as_ref() else { return Err(Refused::Stopping) };
        // Files that it names may be broken at this moment: that is not a fault of what is in force.
        let in_force = self.store.pin();
        let same_pages = pages_stamp(&before.config) == in_force.pages;
        if same_pages && self.source.hash(&before.overlay()).is_some_and(|hash| hash == in_force.hash) {
            return Ok(Reloaded::Unchanged);
        }
        self.manager.reloading();
        let result = self.apply(current);
        self.manager.ready();
        result
    }

    fn apply(&self, current: &mut Option<InForce>) -> Result<Reloaded, Refused> {
        let Some(before) = current.as_ref() else { return Err(Refused::Stopping) };
        let loaded = self.source.load_with(&before.overlay()).map_err(Refused::Invalid)?;
        let in_force = self.store.pin();
        if loaded.hash == in_force.hash && pages_stamp(&loaded.config) == in_force.pages {
            return Ok(Reloaded::Unchanged);
        }
        let reasons = config::restart_reasons(&before.config, &loaded.config);
        if !reasons.is_empty() {
            return Err(Refused::NeedsRestart(reasons));
        }
        let around = Surroundings {
            servers: self.store.servers(),
            metrics: &self.metrics,
            now: clock::now(),
            unix_time: clock::unix_time().as_secs_f64(),
        };
        let snapshot = compile_next(&loaded.config, loaded.hash.clone(), &around, &self.store.load())?;
        let sockets = self.sockets.prepare(&snapshot.listeners)?;
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.message);
        }
        apply_process_settings(&loaded.config, &self.store, &self.log_level);
        self.history.set(Settings::of(&loaded.config));
        self.store.publish(snapshot);
        self.sockets.put_in_force(sockets);
        for place in loaded.lost.iter().filter(|place| !before.lost.contains(place)) {
            tracing::warn!(place, "what was changed at run time has no place in the file any more and has no effect");
        }
        let changes = before.changes.clone();
        *current = Some(InForce::new(loaded, changes));
        Ok(Reloaded::Applied)
    }
}

/// Settings of the process that may change while it runs.
pub fn apply_process_settings(config: &Config, store: &Store, log_level: &LogLevel) {
    let budget = usize::try_from(config.server.body_budget.0).unwrap_or(usize::MAX);
    store.body_budget.set_limit(budget);
    log_level.set(config.telemetry.log_level.as_str());
}
