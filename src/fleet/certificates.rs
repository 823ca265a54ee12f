//! The certificates of a listener: which one a client gets, and their renewal while it runs.
//!
//! A client names the host that it wants (SNI). The exact name wins over `*.example.com`, which stands
//! for one label; a name that no certificate has, or none, gets the first certificate. Names come from
//! the certificates themselves, so there is nothing to keep in step by hand. Where several have the
//! name, RSA beside ECDSA, the first one that the client can use is taken.
//!
//! Invariants: a handshake sees one table from its begin to its end and waits for no lock and no file;
//! a file that cannot be used changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::files::{FromFiles, Recipe};
use crate::config::credentials::{Identity, Leaf, Part, Problem, Staple};
use crate::config::types::CertificateFiles;
use crate::telemetry::metrics::Metrics;

/// The certificates of a listener; the first is for names that no other has.
#[derive(Debug)]
pub struct Certificates {
    entries: Vec<Entry>,
    table: ArcSwap<Table>,
    refreshing: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    identity: FromFiles<IdentityFiles>,
    staple: Option<FromFiles<StapleFile>>,
}

/// A certificate and its key.
pub struct IdentityFiles {
    /// PEM file of the certificate and those that lead to its authority.
    pub cert: String,
    /// PEM file of its key.
    pub key: String,
}

impl Recipe for IdentityFiles {
    type Made = Identity;

    fn files(&self) -> Vec<(Part, &str)> {
        vec![(Part::Certificate, &self.cert), (Part::Key, &self.key)]
    }

    fn make(&self, contents: &[Vec<u8>]) -> Result<Identity, Problem> {
        let [cert, key] = contents else { return Identity::parse(&[], &[]) };
        Identity::parse(cert, key)
    }
}

struct StapleFile(String);

impl Recipe for StapleFile {
    type Made = Staple;

    fn files(&self) -> Vec<(Part, &str)> {
        vec![(Part::Staple, &self.0)]
    }

    fn make(&self, contents: &[Vec<u8>]) -> Result<Staple, Problem> {
        Staple::parse(contents.first().map_or(&[], Vec::as_slice))
    }
}

/// Which certificate is for which name. The numbers are those of the entries.
#[derive(Debug)]
struct Table {
    served: Vec<Served>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

#[derive(Clone, Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl Certificates {
    /// Reads all files; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Which file cannot be used, why, and how to mend it.
    pub fn load(files: &[CertificateFiles], now: i64) -> Result<Self, String> {
        let entry = |files: &CertificateFiles| {
            Ok(Entry {
                identity: FromFiles::load(IdentityFiles { cert: files.cert.clone(), key: files.key.clone() })?,
                staple: files.ocsp.clone().map(|file| FromFiles::load(StapleFile(file))).transpose()?,
            })
        };
        let entries = files.iter().map(entry).collect::<Result<Vec<_>, String>>()?;
        let table = ArcSwap::from_pointee(Table::of(&entries, now));
        Ok(Self { entries, table, refreshing: Mutex::new(()) })
    }

    /// Looks at the files and takes what changed; `now` is in seconds since 1970.
    pub fn refresh(&self, now: i64, metrics: &Metrics) {
        let refreshing = self.refreshing.lock();
        for entry in &self.entries {
            entry.identity.refresh(metrics);
            if let Some(staple) = &entry.staple {
                staple.refresh(metrics);
            }
        }
        let (before, next) = (self.table.load(), Table::of(&self.entries, now));
        for ((entry, before), next) in self.entries.iter().zip(&before.served).zip(&next.served) {
            let staple = entry.staple.as_ref().filter(|_| before.key.ocsp.is_some() && next.key.ocsp.is_none());
            if let Some(fault) = staple.and_then(|staple| staple.get().fits(&next.leaf, now).err()) {
                let error = format!("`{}` {}", entry.identity.name(), fault.what());
                tracing::warn!(error, "the OCSP response is not sent any more");
            }
        }
        if before.differs(&next) {
            self.table.store(Arc::new(next));
        }
        drop(refreshing);
    }

    /// What each certificate is called (its first name, or else its file), and the last second of its
    /// validity since 1970.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        let table = self.table.load();
        let named = self.entries.iter().zip(&table.served);
        named.map(|(entry, served)| (label(&served.leaf, entry.identity.name()), served.leaf.not_after)).collect()
    }
}

/// What a certificate is called in metrics.
pub fn label(leaf: &Leaf, file: &str) -> String {
    leaf.names.first().map_or_else(|| file.to_owned(), Clone::clone)
}

impl Table {
    fn of(entries: &[Entry], now: i64) -> Self {
        let served: Vec<Served> = entries
            .iter()
            .map(|entry| {
                let identity = entry.identity.get();
                let staple = entry.staple.as_ref().map(FromFiles::get);
                let staple = staple.filter(|staple| staple.fits(&identity.leaf, now).is_ok());
                let mut key = identity.certified.clone();
                key.ocsp = staple.map(|staple| staple.der.clone());
                Served { key: Arc::new(key), leaf: identity.leaf.clone() }
            })
            .collect();
        let (mut exact, mut wildcard): (HashMap<_, Vec<usize>>, HashMap<_, Vec<usize>>) = Default::default();
        for (number, one) in served.iter().enumerate() {
            for name in &one.leaf.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(number),
                    None => exact.entry(name.clone()).or_default().push(number),
                }
            }
        }
        Self { served, exact, wildcard }
    }

    fn differs(&self, other: &Self) -> bool {
        let same = |(one, other): (&Served, &Served)| one.key.cert == other.key.cert && one.key.ocsp == other.key.ocsp;
        self.served.len() != other.served.len() || !self.served.iter().zip(&other.served).all(same)
    }

    fn find(&self, name: Option<&str>, usable: impl Fn(&CertifiedKey) -> bool) -> Option<Arc<CertifiedKey>> {
        let first = || self.named(self.served.first()?.leaf.names.first()?);
        let numbers = name.and_then(|name| self.named(name)).or_else(first).unwrap_or(&[0]);
        let candidates = || numbers.iter().filter_map(|number| self.served.get(*number));
        let chosen = candidates().find(|served| usable(&served.key)).or_else(|| candidates().next())?;
        Some(Arc::clone(&chosen.key))
    }

    fn named(&self, name: &str) -> Option<&[usize]> {
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.table.load().find(hello.server_name(), usable)
    }
}
