//! Certificates and private keys: read from files, taken apart, held against each other.
//!
//! The problem: a key that does not belong to its certificate, a password on a key, a file of the wrong
//! kind are found out by clients, one failed handshake at a time. Here they are found before anything
//! is put in force, by `arriero check` with the position in the configuration, and when files rotate.
//!
//! A [`Problem`] names no path, because a path may come out of a variable: whoever shows it says which
//! file it is about ([`Problem::part`]), and how that file is called.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::codes::{self, Code};

mod ocsp;
mod x509;

pub use ocsp::{Staple, StapleFault};
pub use x509::{Leaf, subject};

/// Largest file that is read, in bytes; a bundle of all public authorities is a tenth of it.
const MAX_BYTES: u64 = 4 << 20;

/// Which file of a certificate a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate.
    Certificate,
    /// The bundle of authorities.
    Authority,
    /// The private key.
    Key,
    /// The OCSP response.
    Staple,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub part: Part,
    /// The rule that it breaks.
    pub code: Code,
    /// What is wrong; follows the name of the file: "does not exist".
    pub what: String,
    /// How to mend it.
    pub hint: String,
}

impl Problem {
    fn new(part: Part, code: Code, what: impl Into<String>, hint: &str) -> Self {
        Self { part, code, what: what.into(), hint: hint.to_owned() }
    }

    /// One line for the log: what is wrong with the file at `path`, and how to mend it.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("`{path}` {}: {}", self.what, self.hint)
    }
}

/// The bytes of a file. Ends at once whatever the path is.
///
/// # Errors
/// When there is no such file, it may not be read, or it is not a file of this kind.
pub fn read(part: Part, path: &str) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: &io::Error| {
        let (what, hint) = match error.kind() {
            ErrorKind::NotFound => {
                ("does not exist".to_owned(), "a path that does not begin with `/` starts where Arriero was started")
            }
            ErrorKind::PermissionDenied => {
                ("may not be read by this user".to_owned(), "check owner and mode of the file and of its folders")
            }
            _ => (format!("cannot be read: {error}"), "name a regular file"),
        };
        Problem::new(part, codes::TLS_FILE, what, hint)
    };
    let other = |what: &str| Problem::new(part, codes::TLS_FILE, what, "name a regular file");
    if path.is_empty() {
        return Err(other("is empty"));
    }
    // Opening a FIFO must not wait.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(Path::new(path));
    let file: File = opened.map_err(|error| unreadable(&error))?;
    let found = file.metadata().map_err(|error| unreadable(&error))?;
    if !found.is_file() {
        return Err(other(if found.is_dir() { "is a folder" } else { "is not a regular file" }));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(other("is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// A certificate, those that lead to its authority, and its key; they belong together.
#[derive(Debug)]
pub struct Identity {
    /// What a handshake needs.
    pub certified: CertifiedKey,
    /// The key as it was in the file (PKCS#8, PKCS#1 or SEC1).
    pub key: PrivateKeyDer<'static>,
    /// What the certificate says.
    pub leaf: Leaf,
}

impl Identity {
    /// Takes the contents of two PEM files apart.
    ///
    /// # Errors
    /// When one of them does not hold what it should, or they do not belong together.
    pub fn parse(cert: &[u8], key: &[u8]) -> Result<Self, Problem> {
        let chain = certificates(Part::Certificate, cert)?;
        let key = private_key(key)?;
        let unsupported = |_| {
            let hint = "use ECDSA (P-256, P-384), Ed25519, or RSA of 2048 to 8192 bits";
            Problem::new(Part::Key, codes::PRIVATE_KEY, "holds a kind of key that is not supported", hint)
        };
        let signer = any_supported_type(&key).map_err(unsupported)?;
        let mut leaves = chain.iter().map(|certificate| Leaf::parse(certificate));
        let leaf = leaves.next().flatten().ok_or_else(|| unreadable_certificate(1))?;
        let public = signer.public_key();
        let fits = |leaf: &Leaf| public.as_ref().is_none_or(|public| leaf.public_key == public.as_ref());
        if !fits(&leaf) {
            return Err(match leaves.position(|other| other.as_ref().is_some_and(fits)) {
                Some(place) => {
                    let what = format!("begins with another certificate than the key's, which is number {}", place + 2);
                    let hint = "the key's own certificate comes first, then the one that signed it, and so on";
                    Problem::new(Part::Certificate, codes::KEY_MISMATCH, what, hint)
                }
                None => {
                    let hint =
                        "take `cert` and `key` from the same issue (with certbot: `fullchain.pem` and `privkey.pem`)";
                    Problem::new(Part::Key, codes::KEY_MISMATCH, "is the key of another certificate", hint)
                }
            });
        }
        if let Some(place) = leaves.position(|other| other.is_none()) {
            return Err(unreadable_certificate(place + 2));
        }
        Ok(Self { certified: CertifiedKey::new(chain, signer), key, leaf })
    }
}

/// The certificates of authorities, from the content of a PEM file. Those that cannot be trusted as an
/// authority are left out, as long as one is left.
///
/// # Errors
/// When there is none.
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let mut all = certificates(Part::Authority, pem)?;
    all.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    if all.is_empty() {
        let hint = "write it again from its source: `openssl x509 -in FILE -noout -text` should show it";
        return Err(Problem::new(Part::Authority, codes::CERTIFICATE, "holds no authority that can be read", hint));
    }
    Ok(all)
}

fn unreadable_certificate(place: usize) -> Problem {
    let hint = "write it again from its source: `openssl x509 -in FILE -noout -text` should show it";
    let what = format!("holds a certificate that cannot be read (number {place} in the file)");
    Problem::new(Part::Certificate, codes::CERTIFICATE, what, hint)
}

/// All certificates of a PEM file; at least one.
fn certificates(part: Part, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let sections = sections(part, codes::CERTIFICATE, pem)?;
    let wanted = |(kind, der): (SectionKind, Vec<u8>)| (kind == SectionKind::Certificate).then(|| der.into());
    let has_key = sections.iter().any(|(kind, _)| is_key(*kind));
    let found: Vec<_> = sections.into_iter().filter_map(wanted).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let (what, hint) = if has_key || is_encrypted(pem) {
        ("holds a private key and no certificate", "the certificate and its key are two keys here, `cert` and `key`")
    } else if pem.first() == Some(&0x30) {
        ("is not PEM but DER", "convert it: `openssl x509 -inform der -in FILE -out FILE.pem`")
    } else {
        ("holds no certificate", "it begins with `-----BEGIN CERTIFICATE-----`")
    };
    Err(Problem::new(part, codes::CERTIFICATE, what, hint))
}

/// The first private key of a PEM file.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    let refuse = |what: &str, hint: &str| Err(Problem::new(Part::Key, codes::PRIVATE_KEY, what, hint));
    if is_encrypted(pem) {
        let hint = "nobody is there to type the password: `openssl pkey -in FILE -out FILE.plain` writes it without one; \
                    keep that file for Arriero's user alone";
        return refuse("is an encrypted key", hint);
    }
    for (kind, der) in sections(Part::Key, codes::PRIVATE_KEY, pem)? {
        match kind {
            SectionKind::PrivateKey => return Ok(PrivateKeyDer::Pkcs8(der.into())),
            SectionKind::RsaPrivateKey => return Ok(PrivateKeyDer::Pkcs1(der.into())),
            SectionKind::EcPrivateKey => return Ok(PrivateKeyDer::Sec1(der.into())),
            _ => {}
        }
    }
    if pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) {
        return refuse("holds a certificate and no private key", "name the file of the key, such as `privkey.pem`");
    }
    if pem.first() == Some(&0x30) {
        return refuse("is not PEM but DER", "convert it: `openssl pkey -inform der -in FILE -out FILE.pem`");
    }
    refuse("holds no private key", "it begins with `-----BEGIN PRIVATE KEY-----`, or names RSA or EC before `PRIVATE`")
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn is_key(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
}

fn is_encrypted(pem: &[u8]) -> bool {
    let marks: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];
    marks.iter().any(|mark| pem.windows(mark.len()).any(|part| part == *mark))
}

/// The sections of a PEM file that are known.
fn sections(part: Part, code: Code, pem: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, Problem> {
    let found: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).collect();
    found.map_err(|error| {
        let hint = "it was cut off or changed on its way: write it again from its source";
        Problem::new(part, code, format!("is damaged ({error})"), hint)
    })
}

#[cfg(test)]
mod tests;
