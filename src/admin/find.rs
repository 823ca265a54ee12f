//! Servers by the names that operators use.
//!
//! An id is the server's name; where several upstreams have a server of that name, it is `upstream/name`. That longer
//! form is always taken (`fleet%2Fa100-1` in a path).

use std::collections::HashMap;
use std::sync::Arc;

use super::problem::Problem;
use crate::fleet::server::ServerState;
use crate::fleet::snapshot::{Member, Snapshot, Upstream};

/// A server of the snapshot in force.
pub struct Place {
    /// How operators call it.
    pub id: String,
    /// Its upstream.
    pub upstream: Arc<Upstream>,
    index: usize,
}

impl Place {
    /// The server as a member of its upstream.
    pub fn member(&self) -> &Member {
        &self.upstream.servers[self.index]
    }

    /// The server.
    pub fn state(&self) -> &Arc<ServerState> {
        &self.member().state
    }
}

/// All servers, in the order of the file.
pub fn all(snapshot: &Snapshot) -> Vec<Place> {
    let members = || {
        snapshot
            .upstreams
            .iter()
            .flat_map(|upstream| upstream.servers.iter().enumerate().map(move |one| (upstream, one)))
    };
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (_, (_, member)) in members() {
        *names.entry(member.state.name()).or_default() += 1;
    }
    members()
        .map(|(upstream, (index, member))| {
            let name = member.state.name();
            let id = if names.get(name) == Some(&1) { name.to_owned() } else { format!("{}/{name}", upstream.name) };
            Place { id, upstream: Arc::clone(upstream), index }
        })
        .collect()
}

/// The server of an id.
///
/// # Errors
/// When there is none, or more than one.
pub fn one(snapshot: &Snapshot, id: &str) -> Result<Place, Problem> {
    let places = all(snapshot);
    let longer = |place: &Place| {
        id.split_once('/')
            .is_some_and(|(upstream, name)| place.upstream.name == upstream && place.state().name() == name)
    };
    let several: Vec<String> =
        places.iter().filter(|place| place.id != id && place.state().name() == id).map(|one| one.id.clone()).collect();
    if !several.is_empty() {
        let names = several.join("`, `");
        return Err(Problem::conflict(format!("several servers are called `{id}`: name one of `{names}`")));
    }
    places.into_iter().find(|place| place.id == id || longer(place)).ok_or_else(|| {
        Problem::not_found(format!("there is no server `{id}`; GET /api/orchestrator/servers lists those there are"))
    })
}
