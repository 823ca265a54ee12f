//! The API keys in force, beside the snapshot: they come from a file of their own and change without a reload.
//!
//! # Invariants
//!
//! - A look-up takes the same work whatever is presented: one hash, one comparison of two digests in constant
//!   time, then the decision. That a key is not known, has expired or has a wrong secret shows nowhere.
//! - A file that is broken, half-written or gone leaves the keys as they are. That is told once in the log, and in a
//!   metric for as long as it lasts.
//! - A change holds within five seconds: the file is looked at every two. Signs of a change (length, times, inode)
//!   decide whether it is read; it is read once more after each change, for the clocks of file systems are coarse.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use subtle::Choice;

use super::store::Store;
use crate::config::Diagnostics;
use crate::config::keys::{KeyEntry, Timestamp, load};
use crate::ollama::ModelPattern;
use crate::policy::api_key::{Digest, split};
use crate::policy::auth::Scope;
use crate::telemetry::metrics::Metrics;
use crate::units::Count;

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// A key that is known.
#[derive(Debug)]
pub struct Key {
    /// Whose it is; not unique.
    pub name: String,
    /// Which it is; unique, and fit for logs.
    pub id: String,
    digest: Digest,
    scopes: Vec<Scope>,
    /// Empty for every model.
    models: Vec<ModelPattern>,
    /// Tokens of quotas, by their names.
    quotas: BTreeMap<String, Count>,
    expires: Option<Timestamp>,
}

impl Key {
    fn new(entry: KeyEntry) -> Self {
        Self {
            name: entry.name,
            id: entry.id,
            digest: entry.hash,
            scopes: entry.scopes.into_iter().map(Scope::from).collect(),
            // Validation has refused what is no pattern.
            models: entry.models.iter().filter_map(|model| ModelPattern::parse(model)).collect(),
            quotas: entry.quotas,
            expires: entry.expires,
        }
    }

    /// The key that is compared where none is known.
    fn nobody() -> Self {
        Self {
            name: String::new(),
            id: String::new(),
            digest: Digest::of_nothing(),
            scopes: Vec::new(),
            models: Vec::new(),
            quotas: BTreeMap::new(),
            expires: None,
        }
    }

    /// Whether it may be used for this.
    #[must_use]
    pub fn has_scope(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether it may be used for the model with this canonical name.
    #[must_use]
    pub fn allows_model(&self, canonical: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(canonical))
    }

    /// Whether it may be used for some models only, so that lists of models have to be cut down.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !self.models.is_empty()
    }

    /// Tokens that it may use of a quota, where it has an amount of its own.
    #[must_use]
    pub fn quota(&self, name: &str) -> Option<u64> {
        self.quotas.get(name).map(|amount| amount.0)
    }

    /// Whether it is over at `now`, in seconds since 1970.
    fn is_over(&self, now: u64) -> bool {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.expires.is_some_and(|expires| expires.0 <= now)
    }
}

/// All keys of a file.
#[derive(Debug)]
pub struct KeySet {
    by_id: HashMap<String, Arc<Key>>,
    nobody: Arc<Key>,
}

impl KeySet {
    fn new(entries: Vec<KeyEntry>) -> Self {
        let keys = entries.into_iter().map(Key::new);
        Self { by_id: keys.map(|key| (key.id.clone(), Arc::new(key))).collect(), nobody: Arc::new(Key::nobody()) }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The key with this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<&Key> {
        self.by_id.get(id).map(|key| &**key)
    }

    /// The key that is presented, if it is a good one at `now`, in seconds since 1970.
    #[must_use]
    pub fn find(&self, presented: &[u8], now: u64) -> Option<Arc<Key>> {
        self.find_with(presented, now, Digest::matches)
    }

    fn find_with(
        &self,
        presented: &[u8],
        now: u64,
        compare: impl FnOnce(&Digest, &Digest) -> Choice,
    ) -> Option<Arc<Key>> {
        let (id, secret) = split(presented);
        let given = Digest::of(secret);
        let found = self.by_id.get(id);
        let key = found.unwrap_or(&self.nobody);
        let good = compare(&key.digest, &given)
            & Choice::from(u8::from(found.is_some()))
            & Choice::from(u8::from(!key.is_over(now)));
        bool::from(good).then(|| Arc::clone(key))
    }
}

/// The keys of a file, kept up to date.
pub struct Keys {
    path: PathBuf,
    current: ArcSwap<KeySet>,
    seen: Mutex<Seen>,
}

/// What is known of the file.
struct Seen {
    hash: String,
    signs: Option<Signs>,
    /// Whether it was read again after it had these signs first.
    settled: bool,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signs {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signs {
    fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|found: Metadata| Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Keys {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Diagnostics> {
        let signs = Signs::of(path);
        let loaded = load(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            current: ArcSwap::from_pointee(KeySet::new(loaded.keys)),
            seen: Mutex::new(Seen { hash: loaded.hash, signs, settled: false }),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys in force.
    #[must_use]
    pub fn current(&self) -> Arc<KeySet> {
        self.current.load_full()
    }

    /// The key that is presented, if it is a good one at `now`, in seconds since 1970.
    #[must_use]
    pub fn find(&self, presented: &[u8], now: u64) -> Option<Arc<Key>> {
        self.current.load().find(presented, now)
    }

    /// Looks at the file, and puts its keys in force if it has changed; then true.
    ///
    /// # Errors
    /// Everything that is wrong with it; the keys stay as they are.
    pub fn refresh(&self) -> Result<bool, Diagnostics> {
        let mut seen = self.seen.lock();
        let signs = Signs::of(&self.path);
        let same = signs.is_some() && signs == seen.signs;
        if same && seen.settled {
            return Ok(false);
        }
        // Looked at before it is read: what changes in between will look new again. After an error it is read again.
        seen.signs = None;
        let loaded = load(&self.path)?;
        let changed = loaded.hash != seen.hash;
        *seen = Seen { hash: loaded.hash, signs, settled: same };
        if changed {
            self.current.store(Arc::new(KeySet::new(loaded.keys)));
        }
        Ok(changed)
    }
}

/// Keeps the keys of the snapshot in force up to date until the process ends.
pub async fn watch(store: Arc<Store>, metrics: Arc<Metrics>) {
    let mut told = None;
    loop {
        let keys = store.load().keys.clone();
        if let Some(keys) = keys {
            look(&keys, &mut told, &metrics);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks once; `told` is the problem that was told last.
fn look(keys: &Keys, told: &mut Option<String>, metrics: &Metrics) {
    let result = keys.refresh();
    metrics.keys_ok.set(i64::from(result.is_ok()));
    let file = keys.path.display();
    match result {
        Ok(changed) => {
            let mended = told.take().is_some();
            if changed || mended {
                tracing::info!(%file, keys = keys.current.load().len(), "keys in force");
            }
        }
        Err(found) => {
            let problem = found.to_string();
            if told.as_ref() != Some(&problem) {
                tracing::error!(%file, "keys file refused, the keys before stay in force\n{}", found.render(false));
                *told = Some(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests;
