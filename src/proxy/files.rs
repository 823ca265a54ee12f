//! Static files: from a path to a status, a head and a piece of a file.
//!
//! # Problem
//!
//! A path comes from a client and a folder has things beside it. What is served must lie below the root, whatever the
//! path is made of and wherever links lead.
//!
//! # How
//!
//! [`answer`] decodes the path segment by segment and refuses what could lead elsewhere (`..`, a slash or NUL in a segment,
//! hidden files but `.well-known`), then asks the system for the real place of the file and compares it with the real place
//! of the root: a link may stay inside, not leave. It does file I/O and so belongs on a thread that may wait, and so
//! does [`FileBody::read`].
//!
//! # Invariants
//!
//! - Nothing outside of the root is opened, and nothing that is not a regular file is read.
//! - A body has exactly the announced length, or ends in an error.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;

use super::compress;
use super::conditions::{Range, Version};
use crate::config::types::Coding;
use crate::fleet::content::{Files, content_type};
use crate::policy::failure::Reason;

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;
/// Cache-Control of what never changes: a year, as long as caches go.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Codings of files that lie beside the plain one, the best first, with the ending of their names.
const SIBLINGS: [(Coding, &str); 3] = [(Coding::Br, ".br"), (Coding::Zstd, ".zst"), (Coding::Gzip, ".gz")];

/// What of a request matters.
#[derive(Clone, Copy, Debug)]
pub struct FileRequest<'a> {
    /// The method.
    pub method: &'a Method,
    /// The canonical path below the root, percent-encoded: after `rewrite`.
    pub path: &'a str,
    /// The path as the client knows it: before `rewrite`.
    pub shown_path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The fields.
    pub headers: &'a HeaderMap,
}

/// An answer.
#[derive(Debug)]
pub struct FileAnswer {
    /// [`Reason::Ok`], or why there is an error, whose body is left to the caller.
    pub reason: Reason,
    /// Status.
    pub status: u16,
    /// Fields, Content-Length among them where a body may come.
    pub headers: HeaderMap,
    /// Body; `None` for none.
    pub body: Option<FileBody>,
}

/// A piece of an open file.
#[derive(Debug)]
pub struct FileBody {
    file: File,
    offset: u64,
    left: u64,
}

impl FileBody {
    /// Bytes that are still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next 64 KiB at most; `None` at the end. Waits for the disk.
    ///
    /// # Errors
    /// The disk failed, or the file became shorter.
    pub fn read(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let size = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; size];
        let read = loop {
            match self.file.read_at(&mut piece, self.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(Some(piece.into()))
    }
}

/// Answers a request with a file below the root. Waits for the disk.
#[must_use]
pub fn answer(files: &Files, request: &FileRequest<'_>) -> FileAnswer {
    if request.method != Method::GET && request.method != Method::HEAD {
        let mut refused = plain(Reason::MethodNotAllowed, 405);
        refused.headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match find(files, request) {
        Ok(Some(found)) => serve(files, request, found),
        Ok(None) => to_folder(request),
        Err(error) if is_absence(&error) => plain(Reason::FileNotFound, 404),
        Err(error) => {
            tracing::warn!(root = %files.root.display(), %error, "a file could not be served");
            plain(Reason::Internal, 500)
        }
    }
}

fn plain(reason: Reason, status: u16) -> FileAnswer {
    FileAnswer { reason, status, headers: HeaderMap::new(), body: None }
}

/// What a client is told is not there: also what it may not see.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    let links = error.raw_os_error() == Some(libc::ELOOP);
    links || matches!(error.kind(), NotFound | NotADirectory | PermissionDenied | InvalidInput | InvalidFilename)
}

/// A regular file that was opened.
struct Opened {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Path below the root as the client wrote it, decoded; `None` for the fallback.
    name: Option<String>,
}

/// The file; `None` for a folder that was asked for without the `/` at its end.
fn find(files: &Files, request: &FileRequest<'_>) -> io::Result<Option<Opened>> {
    let root = files.root.canonicalize()?;
    let found = decode(request.path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)).and_then(|name| {
        let folder = name.ends_with('/');
        let path = root.join(name.trim_matches('/'));
        if folder {
            return open(&root, &path.join(&files.index), Some(format!("{name}{}", files.index))).map(Some);
        }
        if std::fs::metadata(&path)?.is_dir() {
            within(&root, &path)?;
            return Ok(None);
        }
        open(&root, &path, Some(name)).map(Some)
    });
    match (found, &files.fallback) {
        (Err(error), Some(fallback)) if is_absence(&error) => {
            open(&root, &root.join(fallback.trim_start_matches('/')), None).map(Some)
        }
        (found, _) => found,
    }
}

/// The decoded path; `None` when no file can have it.
fn decode(path: &str) -> Option<String> {
    let mut name = String::with_capacity(path.len());
    let segments = path.strip_prefix('/')?;
    let last = segments.matches('/').count();
    for (index, segment) in segments.split('/').enumerate() {
        let segment = percent_decode_str(segment).decode_utf8().ok()?;
        let empty = segment.is_empty() && index < last;
        let hidden = segment.starts_with('.') && (segment != ".well-known" || index > 0);
        if empty || hidden || segment.contains(['/', '\0']) {
            return None;
        }
        name.push('/');
        name.push_str(&segment);
    }
    Some(name)
}

/// The real place of a path, which must lie below the root.
fn within(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let real = path.canonicalize()?;
    if real.starts_with(root) { Ok(real) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

fn open(root: &Path, path: &Path, name: Option<String>) -> io::Result<Opened> {
    let path = within(root, path)?;
    // The real place has no links, so one that appears now is somebody's trick; a FIFO must not make us wait.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Opened { path, file, metadata, name })
}

/// A folder is answered by the file in it, under its own path with a `/`, so that relative links in it are right.
fn to_folder(request: &FileRequest<'_>) -> FileAnswer {
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    // One slash in front: two would name a host.
    let place = format!("/{}/{query}", request.shown_path.trim_matches('/'));
    let Ok(place) = HeaderValue::try_from(place) else { return plain(Reason::FileNotFound, 404) };
    let mut answer = plain(Reason::Ok, 301);
    answer.headers.insert(header::LOCATION, place);
    answer
}

fn serve(files: &Files, request: &FileRequest<'_>, found: Opened) -> FileAnswer {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, content_type(&found.path));
    let immutable = found.name.as_ref().is_some_and(|name| files.immutable.iter().any(|g| g.matches(name.as_bytes())));
    if immutable {
        headers.insert(header::CACHE_CONTROL, IMMUTABLE);
    } else if let Some(value) = &files.cache_control {
        headers.insert(header::CACHE_CONTROL, value.clone());
    }
    let (chosen, coding) = precompressed(files, request, found, &mut headers);
    let length = chosen.metadata.len();
    let version = Version::of(modified(&chosen.metadata), length, coding.map(compress::name));
    version.write(&mut headers);
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(compress::name(coding)));
    }
    if version.unchanged(request.headers) {
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_ENCODING);
        return FileAnswer { reason: Reason::Ok, status: 304, headers, body: None };
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let range = if request.method == Method::GET { version.range(request.headers, length) } else { Range::Whole };
    let (status, offset, left) = match range {
        Range::Whole => (200, 0, length),
        Range::Part { first, last } => {
            set(&mut headers, header::CONTENT_RANGE, format!("bytes {first}-{last}/{length}"));
            (206, first, last - first + 1)
        }
        Range::Outside => {
            set(&mut headers, header::CONTENT_RANGE, format!("bytes */{length}"));
            headers.remove(header::CONTENT_ENCODING);
            headers.remove(header::CONTENT_TYPE);
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            return FileAnswer { reason: Reason::Ok, status: 416, headers, body: None };
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(left));
    let body = (request.method == Method::GET && left > 0).then_some(FileBody { file: chosen.file, offset, left });
    FileAnswer { reason: Reason::Ok, status, headers, body }
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

/// The file that lies beside `found` in a coding that the client takes, or `found` itself.
fn precompressed(
    files: &Files,
    request: &FileRequest<'_>,
    found: Opened,
    headers: &mut HeaderMap,
) -> (Opened, Option<Coding>) {
    let beside = |ending: &str| {
        let mut path = found.path.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path)
    };
    let there: Vec<Coding> =
        SIBLINGS.iter().filter(|(_, ending)| beside(ending).is_file()).map(|(coding, _)| *coding).collect();
    if there.is_empty() {
        return (found, None);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    // A part of the coded bytes is of no use to most who ask for parts.
    let coding = compress::negotiate(&there, request.headers).filter(|_| !request.headers.contains_key(header::RANGE));
    let ending =
        coding.and_then(|coding| SIBLINGS.iter().find(|(known, _)| *known == coding)).map(|(_, ending)| *ending);
    let Some(ending) = ending else { return (found, None) };
    let opened = files.root.canonicalize().and_then(|root| open(&root, &beside(ending), None));
    match opened {
        Ok(opened) => (opened, coding),
        Err(_) => (found, None),
    }
}

#[cfg(test)]
#[path = "files/tests.rs"]
mod tests;
