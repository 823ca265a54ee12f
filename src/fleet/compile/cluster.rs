//! The cluster.

use std::hash::Hasher;
use std::sync::Arc;

use rustix::system::uname;

use super::{CompileError, error};
use crate::config::{RedisUrl, types};
use crate::fleet::cluster::ClusterPlan;
use crate::fleet::upstream_tls::UpstreamTls;

/// What instances of one name have in common with names: other characters of a host's name become `-`.
fn host_name() -> String {
    let name = uname().nodename().to_string_lossy().into_owned();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let name: String = name.chars().map(|letter| if plain(letter) { letter } else { '-' }).collect();
    if name.is_empty() { "arriero".to_owned() } else { name }
}

/// A hash of what all instances should have in common: not where each listens, what each is called, and what its host is like.
pub(super) fn common_hash(config: &types::Config) -> String {
    let mut common = serde_json::to_value(config).unwrap_or_default();
    if let Some(blocks) = common.as_object_mut() {
        blocks.retain(|block, _| !["admin", "server", "telemetry", "history"].contains(&block.as_str()));
    }
    if let Some(cluster) = common["cluster"].as_object_mut() {
        cluster.remove("instance");
    }
    for listener in common["listeners"].as_array_mut().into_iter().flatten() {
        if let Some(keys) = listener.as_object_mut() {
            keys.remove("address");
        }
    }
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(common.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}

pub(super) fn compile(
    cluster: Option<&types::Cluster>,
    before: Option<&Arc<ClusterPlan>>,
) -> Result<Option<Arc<ClusterPlan>>, CompileError> {
    let Some(cluster) = cluster else { return Ok(None) };
    if let Some(before) = before.filter(|before| before.typed == *cluster) {
        return Ok(Some(Arc::clone(before)));
    }
    let urls = cluster.redis.as_slice().iter().map(|url| RedisUrl::parse(url)).collect::<Result<Vec<_>, _>>();
    let urls = urls.map_err(|problem| error("cluster.redis", problem))?;
    let tls = urls.first().is_some_and(|url| url.tls);
    let tls = tls.then(|| UpstreamTls::load(cluster.tls.clone().unwrap_or_default(), false)).transpose();
    Ok(Some(Arc::new(ClusterPlan {
        database: urls.first().map_or(0, |url| url.database),
        addresses: urls.into_iter().map(|url| url.address).collect(),
        tls: tls.map_err(|problem| error("cluster.tls", problem))?,
        instance: cluster.instance.clone().unwrap_or_else(host_name),
        timeout: cluster.timeout.0,
        typed: cluster.clone(),
    })))
}
