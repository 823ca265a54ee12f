//! Compiles targets that need no server, header rules and error pages.

use std::hash::Hasher;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fnv::FnvHasher;
use http::{HeaderName, HeaderValue};

use super::{CompileError, error};
use crate::config::types::{self, Config, Kind, RequestEncoding};
use crate::fleet::content::{Content, ErrorPages, Files, Page, Redirect, Respond, content_type};
use crate::routing::glob::Glob;
use crate::routing::{HeaderRules, Rewrite, Template};

/// Largest error page in bytes: it is kept in memory.
const MAX_PAGE: u64 = 1 << 20;

pub(super) fn compile_respond(path: &str, respond: &types::Respond) -> Result<Respond, CompileError> {
    Ok(Respond {
        status: respond.status,
        content_type: value(&format!("{path}.content_type"), &respond.content_type)?,
        headers: fields(&format!("{path}.headers"), &respond.headers)?,
        body: Bytes::copy_from_slice(respond.body.as_bytes()),
    })
}

pub(super) fn compile_redirect(path: &str, redirect: &types::Redirect) -> Result<Redirect, CompileError> {
    let to = Template::parse(&redirect.to).map_err(|bad| error(format!("{path}.to"), bad))?;
    Ok(Redirect { status: redirect.status, to })
}

pub(super) fn compile_files(path: &str, files: &types::Files) -> Result<Files, CompileError> {
    let cache_control = files.cache_control.as_ref().map(|text| value(&format!("{path}.cache_control"), text));
    Ok(Files {
        root: PathBuf::from(&files.root),
        index: files.index.clone(),
        fallback: files.fallback.clone(),
        cache_control: cache_control.transpose()?,
        immutable: files.immutable.as_slice().iter().map(|glob| Glob::new(glob)).collect(),
    })
}

/// What `route` changes; `kind` is that of its upstream, if it has one.
pub(super) fn compile_content(path: &str, route: &types::Route, kind: Option<Kind>) -> Result<Content, CompileError> {
    let prefix = |prefix: &Option<String>| prefix.clone().unwrap_or_default();
    let rewrite = (route.rewrite != types::Rewrite::default())
        .then(|| Rewrite::new(&prefix(&route.rewrite.strip_prefix), &prefix(&route.rewrite.add_prefix)));
    let model_aware = matches!(kind, Some(Kind::Ollama | Kind::Openai));
    Ok(Content {
        rewrite,
        request: changes(&format!("{path}.headers.request"), &route.headers.request)?,
        response: changes(&format!("{path}.headers.response"), &route.headers.response)?,
        error_pages: compile_pages(&format!("{path}.error_pages"), route)?,
        compress: route.compress.codings().to_vec(),
        request_encoding: route.request_encoding.or(model_aware.then_some(RequestEncoding::Deny)),
    })
}

fn changes(path: &str, changes: &types::HeaderChanges) -> Result<HeaderRules, CompileError> {
    Ok(HeaderRules {
        remove: changes
            .remove
            .as_slice()
            .iter()
            .map(|field| name(&format!("{path}.remove"), field))
            .collect::<Result<_, _>>()?,
        set: fields(&format!("{path}.set"), &changes.set)?,
        add: fields(&format!("{path}.add"), &changes.add)?,
    })
}

fn fields(
    path: &str,
    fields: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<(HeaderName, Template)>, CompileError> {
    fields
        .iter()
        .map(|(field, text)| {
            let path = format!("{path}.{field}");
            Ok((name(&path, field)?, Template::parse(text).map_err(|bad| error(path, bad))?))
        })
        .collect()
}

fn name(path: &str, field: &str) -> Result<HeaderName, CompileError> {
    HeaderName::try_from(field).map_err(|bad| error(path, bad))
}

fn value(path: &str, text: &str) -> Result<HeaderValue, CompileError> {
    HeaderValue::from_str(text).map_err(|bad| error(path, bad))
}

fn compile_pages(path: &str, route: &types::Route) -> Result<ErrorPages, CompileError> {
    let mut pages = ErrorPages { intercept: route.intercept_errors, ..ErrorPages::default() };
    for (status, file) in &route.error_pages {
        let path = format!("{path}.{status}");
        let page = Page { content_type: content_type(Path::new(file)), body: read(&path, file)? };
        match status.as_str() {
            "4xx" => pages.client = Some(page),
            "5xx" => pages.server = Some(page),
            exact => {
                let exact = exact.parse().map_err(|bad| error(&path, bad))?;
                pages.exact.push((exact, page));
            }
        }
    }
    Ok(pages)
}

fn read(path: &str, file: &str) -> Result<Bytes, CompileError> {
    let unreadable = |bad: std::io::Error| error(path, format!("the page `{file}` cannot be read: {bad}"));
    // Looked at first: opening a FIFO waits for somebody to write.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(error(path, format!("the page `{file}` is not a file")));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_PAGE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_PAGE {
        return Err(error(path, format!("the page `{file}` is larger than 1 MiB")));
    }
    Ok(bytes.into())
}

/// A number that changes when an error page does, or when one appears or vanishes: whoever reloads gets the new pages
/// also when the configuration itself is the same.
#[must_use]
pub fn pages_stamp(config: &Config) -> u64 {
    let mut hasher = FnvHasher::default();
    for (status, file) in config.routes.iter().flat_map(|route| &route.error_pages) {
        match read(status, file) {
            Ok(bytes) => hasher.write(&bytes),
            Err(_) => hasher.write_u8(0),
        }
        hasher.write_usize(file.len());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_changes_when_a_page_does_and_with_it_what_a_reload_sees() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("404.html");
        let text = format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams: {{}}\nroutes:\n  - name: a\n    respond: {{}}\n    error_pages: {{ 404: {page:?} }}\n"
        );
        let config = crate::config::parse("t", &text, &|_| None).unwrap().config;
        let missing = pages_stamp(&config);
        assert!(compile_pages("p", &config.routes[0]).unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&page, "gone").unwrap();
        let first = pages_stamp(&config);
        assert_eq!(pages_stamp(&config), first);
        let pages = compile_pages("p", &config.routes[0]).unwrap();
        let page_404 = pages.page(404, false).unwrap();
        assert_eq!(
            (&page_404.body[..], page_404.content_type.to_str().unwrap()),
            (&b"gone"[..], "text/html; charset=utf-8")
        );
        std::fs::write(&page, "lost").unwrap();
        assert!(pages_stamp(&config) != first && first != missing);
        std::fs::write(&page, vec![b'x'; 1 << 21]).unwrap();
        assert!(compile_pages("p", &config.routes[0]).unwrap_err().to_string().contains("larger than 1 MiB"));
    }
}
