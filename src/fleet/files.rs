//! Something made from files, and made again when their bytes change.
//!
//! The problem: certificates are renewed in place by other programs, in steps: the certificate, then
//! its key. A look in between sees two files that do not belong together. So what is broken changes
//! nothing, and is called a mistake only when the same bytes are still there at the next look.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::config::credentials::{Part, Problem, read};
use crate::telemetry::metrics::Metrics;

/// How something is made from the bytes of files.
pub trait Recipe {
    /// What is made.
    type Made;

    /// The files, in the order in which `make` gets them.
    fn files(&self) -> Vec<(Part, &str)>;

    /// Makes it.
    ///
    /// # Errors
    /// What is wrong with one of the files.
    fn make(&self, contents: &[Vec<u8>]) -> Result<Self::Made, Problem>;
}

type Hash = [u8; 32];

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The same bytes as before.
    Same,
    /// Other bytes, and they are in force.
    Taken,
    /// Other bytes that cannot be used; what was there before stays in force.
    Refused,
}

/// Something made from files.
pub struct FromFiles<R: Recipe> {
    recipe: R,
    made: ArcSwap<R::Made>,
    seen: Mutex<Seen>,
}

/// What the last looks found.
struct Seen {
    in_force: Hash,
    /// Bytes that could not be used, and whether that was said.
    broken: Option<(Hash, bool)>,
}

impl<R: Recipe> FromFiles<R> {
    /// Makes it for the first time.
    ///
    /// # Errors
    /// Which file cannot be used, why, and how to mend it, as one line.
    pub fn load(recipe: R) -> Result<Self, String> {
        let contents = contents(&recipe).map_err(|problem| told(&recipe, &problem))?;
        let made = recipe.make(&contents).map_err(|problem| told(&recipe, &problem))?;
        let seen = Mutex::new(Seen { in_force: hash(&contents), broken: None });
        Ok(Self { recipe, made: ArcSwap::from_pointee(made), seen })
    }

    /// What is in force.
    pub fn get(&self) -> Arc<R::Made> {
        self.made.load_full()
    }

    /// How it is made.
    pub fn recipe(&self) -> &R {
        &self.recipe
    }

    /// Looks at the files; what is found is logged and counted.
    pub fn refresh(&self, metrics: &Metrics) -> Look {
        let mut seen = self.seen.lock();
        let (found, result) = match contents(&self.recipe) {
            Ok(contents) => {
                let found = hash(&contents);
                if found == seen.in_force {
                    seen.broken = None;
                    return Look::Same;
                }
                if seen.broken == Some((found, true)) {
                    return Look::Refused;
                }
                (found, self.recipe.make(&contents))
            }
            Err(problem) => (hash(&[problem.what.clone().into_bytes()]), Err(problem)),
        };
        match result {
            Ok(made) => {
                self.made.store(Arc::new(made));
                *seen = Seen { in_force: found, broken: None };
                tracing::info!(file = self.name(), "file read again");
                metrics.certificates_reloaded("applied");
                Look::Taken
            }
            Err(problem) => {
                match seen.broken {
                    Some((before, said)) if before == found => {
                        if !said {
                            let error = told(&self.recipe, &problem);
                            tracing::error!(error, "a changed file cannot be used, the one before stays in force");
                            metrics.certificates_reloaded("refused");
                        }
                        seen.broken = Some((found, true));
                    }
                    _ => seen.broken = Some((found, false)),
                }
                Look::Refused
            }
        }
    }

    /// The first of its files.
    pub fn name(&self) -> &str {
        self.recipe.files().first().map_or("", |(_, path)| path)
    }
}

impl<R: Recipe> fmt::Debug for FromFiles<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.recipe.files()).finish()
    }
}

fn contents<R: Recipe>(recipe: &R) -> Result<Vec<Vec<u8>>, Problem> {
    recipe.files().into_iter().map(|(part, path)| read(part, path)).collect()
}

fn told<R: Recipe>(recipe: &R, problem: &Problem) -> String {
    let files = recipe.files();
    let path = files.iter().find(|(part, _)| *part == problem.part).or(files.first()).map_or("", |(_, path)| *path);
    problem.at(path)
}

/// A hash that changes with any byte and with where one file ends and the next begins.
pub fn hash(contents: &[Vec<u8>]) -> Hash {
    let mut hasher = Sha256::new();
    for content in contents {
        hasher.update(content.len().to_le_bytes());
        hasher.update(content);
    }
    hasher.finalize().into()
}
