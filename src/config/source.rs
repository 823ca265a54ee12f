//! The text of a file: how it is read without trusting it, and how an offset becomes a position.
//!
//! A path from the command line may be a FIFO, a folder, a disk image or a UTF-16 file. Whatever it is,
//! reading ends at once, takes at most 8 MiB, and says what was found.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path as FilePath;

use super::codes::{self, Code};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::tree::{Span, Steps};

/// Largest file that is read, in bytes.
pub const MAX_BYTES: usize = 8 << 20;

/// Most diagnostics that are collected for a file.
const MAX_DIAGNOSTICS: usize = 100;

/// Stands for the file where a value was set at run time.
const RUN_TIME: &str = "set at run time";

/// Longest line that is shown as an excerpt, in bytes.
const MAX_EXCERPT: usize = 400;

/// The text of a file with its name and the offsets of its lines.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        Self { name, text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Line of the byte at `offset`, from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// The text of line `line` (from 1) without its break.
    pub(super) fn line(&self, line: usize) -> &'a str {
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let rest = self.text.get(start..).unwrap_or_default();
        rest.split('\n').next().unwrap_or_default().trim_end_matches('\r')
    }

    fn diagnostic(&self, code: Code, span: Option<Span>, message: String, hint: Option<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic {
            code: code.id,
            severity: code.severity(),
            message,
            file: self.name.to_owned(),
            line: 0,
            column: 0,
            length: 0,
            hint,
            path: String::new(),
            excerpt: None,
        };
        if span == Some(Span::ELSEWHERE) {
            diagnostic.file = RUN_TIME.to_owned();
        } else if let Some(span) = span {
            let line_number = self.line_of(span.start as usize);
            let line = self.line(line_number);
            let line_start = self.starts.get(line_number.saturating_sub(1)).copied().unwrap_or_default();
            let count = |offset: usize| line.char_indices().take_while(|(byte, _)| line_start + byte < offset).count();
            let from = count(span.start as usize);
            diagnostic.line = line_number;
            diagnostic.column = from + 1;
            diagnostic.length = count(span.end as usize).saturating_sub(from).max(1);
            if line.len() <= MAX_EXCERPT {
                diagnostic.excerpt = Some(line.to_owned());
            }
        }
        diagnostic
    }
}

/// Collects what is wrong with one source.
pub(super) struct Report<'a> {
    pub(super) source: Source<'a>,
    found: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self { source, found: Vec::new() }
    }

    /// Adds what is wrong at `span`; `path` names the value.
    pub(super) fn push(
        &mut self,
        code: Code,
        span: Option<Span>,
        path: &Steps,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        if self.found.len() >= MAX_DIAGNOSTICS {
            return;
        }
        let mut diagnostic = self.source.diagnostic(code, span, message.into(), hint);
        diagnostic.path = path.to_string();
        // One place in the file may be reached by several aliases: say it once.
        let known = self.found.iter().any(|other| {
            other.code == diagnostic.code
                && (other.line, other.column) == (diagnostic.line, diagnostic.column)
                && other.message == diagnostic.message
        });
        if !known {
            self.found.push(diagnostic);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|diagnostic| diagnostic.severity == super::diagnostic::Severity::Error)
    }

    /// Everything found, in the order of the file.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        self.found
    }
}

/// One diagnostic about the file as a whole.
pub(super) fn whole(name: &str, code: Code, message: impl Into<String>, hint: Option<&str>) -> Diagnostics {
    let source = Source::new(name, "");
    Diagnostics(vec![source.diagnostic(code, None, message.into(), hint.map(str::to_owned))])
}

/// The bytes of the file at `path`, at most [`MAX_BYTES`] and one.
pub(super) fn read(path: &FilePath) -> Result<Vec<u8>, Diagnostics> {
    let name = path.display().to_string();
    let unreadable = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound if path.symlink_metadata().is_ok() => {
            whole(&name, codes::UNREADABLE, format!("`{name}` is a link to a file that does not exist"), None)
        }
        std::io::ErrorKind::NotFound => whole(
            &name,
            codes::UNREADABLE,
            format!("the file `{name}` does not exist"),
            Some("`arriero init` writes one to start from"),
        ),
        std::io::ErrorKind::PermissionDenied => whole(
            &name,
            codes::UNREADABLE,
            format!("the file `{name}` may not be read by this user"),
            Some("check the owner and the mode of the file and of its folders"),
        ),
        _ => whole(&name, codes::UNREADABLE, format!("the file `{name}` cannot be read: {error}"), None),
    };
    let found = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    refuse_other_kinds(&name, &found)?;
    // Between the look above and this line the path may become a FIFO: opening one must not wait.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| unreadable(&error))?;
    refuse_other_kinds(&name, &file.metadata().map_err(|error| unreadable(&error))?)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    Ok(bytes)
}

fn refuse_other_kinds(name: &str, found: &std::fs::Metadata) -> Result<(), Diagnostics> {
    let kind = found.file_type();
    if kind.is_file() {
        if found.len() > MAX_BYTES as u64 {
            return Err(too_large(name));
        }
        return Ok(());
    }
    let (what, hint) = if kind.is_dir() {
        ("a directory", "name the file in it, such as `arriero.yaml`")
    } else if kind.is_fifo() {
        ("a FIFO", "write the settings to a regular file: Arriero reads it again at each reload")
    } else if kind.is_socket() {
        ("a socket", "name a regular file")
    } else {
        ("a device", "name a regular file")
    };
    Err(whole(name, codes::NOT_A_FILE, format!("`{name}` is {what}, not a file"), Some(hint)))
}

fn too_large(name: &str) -> Diagnostics {
    let hint = "a configuration is a few KiB: is this the right file?";
    whole(name, codes::TOO_LARGE, format!("the file `{name}` is larger than 8 MiB"), Some(hint))
}

/// The bytes as text, or what they are instead.
pub(super) fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostics> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(name));
    }
    let looks_wide = bytes.len() >= 4 && (bytes[..4] == [bytes[0], 0, bytes[2], 0] || (bytes[0] == 0 && bytes[2] == 0));
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || (looks_wide && bytes.contains(&b'\n')) {
        let hint = "save it as UTF-8, or convert it: `iconv -f UTF-16 -t UTF-8`";
        return Err(whole(name, codes::NOT_TEXT, "the file is UTF-16, not UTF-8", Some(hint)));
    }
    let (valid, broken) = match std::str::from_utf8(bytes) {
        Ok(valid) => (valid, None),
        Err(error) => {
            let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            (valid, Some(valid.len()))
        }
    };
    let refuse = |offset: usize, message: &str, hint: &str| {
        let mut report = Report::new(Source::new(name, valid));
        let at = Span::new(offset, offset + 1);
        report.push(codes::NOT_TEXT, Some(at), &Steps::default(), message, Some(hint.to_owned()));
        Err(Diagnostics(report.finish()))
    };
    if let Some(offset) = valid.find('\0') {
        return refuse(offset, "the file has a NUL byte", "the file is damaged or not text: write it again");
    }
    if let Some(offset) = broken {
        return refuse(offset, "the file has a byte that is not UTF-8", "save the file as UTF-8");
    }
    Ok(valid.strip_prefix('\u{feff}').unwrap_or(valid))
}
