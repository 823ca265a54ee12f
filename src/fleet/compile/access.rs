//! Who may: networks, host names, keys and origins, compiled.

use std::path::Path;
use std::sync::Arc;

use super::{CompileError, error};
use crate::config::types::{self, RouteAuth};
use crate::fleet::keys::Keys;
use crate::policy::auth::Mode;
use crate::policy::cidr::{Access, Cidr, Networks};
use crate::policy::cors::Cors;

/// The keys in force with a configuration: those before, with all that is known of them, if the file is the same.
pub(super) fn keys(auth: &types::Auth, before: Option<&Arc<Keys>>) -> Result<Option<Arc<Keys>>, CompileError> {
    let Some(path) = auth.keys_file.as_deref().map(Path::new) else { return Ok(None) };
    if let Some(same) = before.filter(|keys| keys.path() == path) {
        return Ok(Some(Arc::clone(same)));
    }
    let keys = Keys::open(path)
        .map_err(|found| error("auth.keys_file", format!("the file cannot be used\n{}", found.render(false))))?;
    Ok(Some(Arc::new(keys)))
}

/// Whether a route asks for keys.
pub(super) fn mode(auth: Option<RouteAuth>, has_keys: bool) -> Mode {
    match auth {
        Some(RouteAuth::Required) => Mode::Required,
        Some(RouteAuth::Optional) => Mode::Optional,
        Some(RouteAuth::None) => Mode::None,
        None if has_keys => Mode::Required,
        None => Mode::None,
    }
}

pub(super) fn networks(path: &str, texts: &[String]) -> Result<Networks, CompileError> {
    texts.iter().map(|text| text.parse::<Cidr>().map_err(|why| error(path, why))).collect()
}

pub(super) fn access(path: &str, access: &types::Access) -> Result<Access, CompileError> {
    Ok(Access {
        allow: networks(&format!("{path}.access.allow"), &access.allow)?,
        deny: networks(&format!("{path}.access.deny"), &access.deny)?,
    })
}

pub(super) fn cors(path: &str, cors: Option<&types::Cors>) -> Result<Option<Cors>, CompileError> {
    let Some(cors) = cors else { return Ok(None) };
    let types::Cors { origins, methods, headers, expose, max_age, credentials } = cors;
    let compiled = Cors::new(origins, methods, headers, expose, max_age.0, *credentials);
    compiled.map(Some).map_err(|why| error(format!("{path}.cors"), why))
}
