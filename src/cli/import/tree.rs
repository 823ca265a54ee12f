//! The directives of an nginx configuration, with those of the files that it includes.
//!
//! Invariants: every directive has the file and the line where it stands; depth, number of files and their size are
//! bounded, so that a file that includes itself ends in an error and not in a full memory.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::tokens::{Token, TokenKind, tokens};
use crate::routing::glob::Glob;

/// Deepest nesting of blocks.
const MAX_DEPTH: usize = 32;
/// Deepest nesting of includes.
const MAX_INCLUDES: usize = 8;
/// Most files.
const MAX_FILES: usize = 256;
/// Largest file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// One directive.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    /// Number among all directives.
    pub(super) id: usize,
    pub(super) name: String,
    pub(super) args: Vec<String>,
    /// What stands between its braces.
    pub(super) block: Option<Vec<Directive>>,
    pub(super) file: Rc<str>,
    /// Line, from 1.
    pub(super) line: usize,
}

impl Directive {
    /// The argument at `index`, or an empty text.
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// What stands between its braces, or nothing.
    pub(super) fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// This directive and all below it.
    pub(super) fn walk<'t>(&'t self, visit: &mut dyn FnMut(&'t Directive)) {
        visit(self);
        self.children().iter().for_each(|child| child.walk(visit));
    }
}

/// Why a configuration cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub(super) struct Unreadable {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) problem: String,
}

/// Reads a file and what it includes.
pub(super) fn read(path: &Path) -> Result<Vec<Directive>, Unreadable> {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut reader = Reader { folder, next_id: 0, files: 0 };
    reader.file(path, 0)
}

struct Reader {
    /// The folder of the first file: nginx looks for includes there.
    folder: PathBuf,
    next_id: usize,
    files: usize,
}

impl Reader {
    fn file(&mut self, path: &Path, includes: usize) -> Result<Vec<Directive>, Unreadable> {
        let name: Rc<str> = path.display().to_string().into();
        let unreadable = |line, problem: String| Unreadable { file: name.to_string(), line, problem };
        self.files += 1;
        if self.files > MAX_FILES || includes > MAX_INCLUDES {
            return Err(unreadable(0, "too many includes".to_owned()));
        }
        let size = std::fs::metadata(path).map_err(|error| unreadable(0, error.to_string()))?;
        if !size.is_file() || size.len() > MAX_BYTES {
            return Err(unreadable(0, "this is not a file of at most 1 MiB".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(0, error.to_string()))?;
        let found = tokens(&text).map_err(|broken| unreadable(broken.line, broken.problem.to_owned()))?;
        let mut rest = found.iter();
        let directives = self.block(&mut rest, &name, 0, includes)?;
        Ok(directives)
    }

    /// Directives up to the brace that closes this block, or to the end of the file at depth 0.
    fn block(
        &mut self,
        rest: &mut std::slice::Iter<'_, Token>,
        file: &Rc<str>,
        depth: usize,
        includes: usize,
    ) -> Result<Vec<Directive>, Unreadable> {
        let unreadable = |line, problem: &str| Unreadable { file: file.to_string(), line, problem: problem.to_owned() };
        let mut directives = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let mut begin = 1;
        while let Some(token) = rest.next() {
            match &token.kind {
                TokenKind::Word(word) => {
                    if words.is_empty() {
                        begin = token.line;
                    }
                    words.push(word.clone());
                    continue;
                }
                TokenKind::Close if words.is_empty() && depth > 0 => return Ok(directives),
                TokenKind::Close if words.is_empty() => return Err(unreadable(token.line, "a `}` closes nothing")),
                TokenKind::Close => return Err(unreadable(begin, "the directive has no `;`")),
                TokenKind::End | TokenKind::Open if words.is_empty() => {
                    return Err(unreadable(token.line, "there is no directive in front of this"));
                }
                TokenKind::End | TokenKind::Open => {}
            }
            let mut words = std::mem::take(&mut words).into_iter();
            let mut directive = Directive {
                id: self.next_id,
                name: words.next().unwrap_or_default(),
                args: words.collect(),
                block: None,
                file: Rc::clone(file),
                line: begin,
            };
            self.next_id += 1;
            if token.kind == TokenKind::Open {
                if depth + 1 >= MAX_DEPTH {
                    return Err(unreadable(begin, "blocks are nested too deeply"));
                }
                directive.block = Some(self.block(rest, file, depth + 1, includes)?);
            }
            let more = if directive.name == "include" { self.include(&mut directive, includes)? } else { Vec::new() };
            directives.push(directive);
            directives.extend(more);
        }
        if !words.is_empty() {
            return Err(unreadable(begin, "the directive has no `;`"));
        }
        if depth > 0 {
            return Err(unreadable(begin, "a `{` is not closed"));
        }
        Ok(directives)
    }

    /// The directives of included files. Lists of types and parameters say nothing to us; a file that is not there is
    /// left for the report, where its second argument says so.
    fn include(&mut self, directive: &mut Directive, includes: usize) -> Result<Vec<Directive>, Unreadable> {
        let pattern = directive.arg(0).to_owned();
        let base = pattern.rsplit('/').next().unwrap_or_default();
        if base == "mime.types" || base.ends_with("_params") {
            return Ok(Vec::new());
        }
        let files = self.matching(&pattern);
        if files.is_empty() && !pattern.contains('*') {
            directive.args.push(MISSING.to_owned());
        }
        let mut found = Vec::new();
        for file in files {
            found.extend(self.file(&file, includes + 1)?);
        }
        Ok(found)
    }

    fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        let relative = pattern.strip_prefix("/etc/nginx/").unwrap_or(pattern);
        // A configuration that was copied elsewhere still names its old home.
        let places = [PathBuf::from(pattern), self.folder.join(relative)];
        for place in places.into_iter().filter(|place| place.is_absolute() || place.starts_with(&self.folder)) {
            let Some(name) = place.file_name().and_then(|name| name.to_str()) else { continue };
            if !name.contains('*') {
                if place.is_file() {
                    return vec![place];
                }
                continue;
            }
            let pattern = Glob::new(name);
            let Ok(entries) = std::fs::read_dir(place.parent().unwrap_or(&self.folder)) else { continue };
            let mut files: Vec<PathBuf> = entries
                .flatten()
                .filter(|entry| entry.file_name().to_str().is_some_and(|file| pattern.matches(file.as_bytes())))
                .map(|entry| entry.path())
                .filter(|path| path.is_file())
                .collect();
            files.sort();
            if !files.is_empty() {
                return files;
            }
        }
        Vec::new()
    }
}

/// Stands as the second argument of an `include` whose file is not there.
pub(super) const MISSING: &str = "\0missing";
