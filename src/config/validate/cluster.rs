//! Rules about the cluster that this instance belongs to.

use super::{Rules, notifications, tls};
use crate::config::address::RedisUrl;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Config, OneOrMany, RedisMode};
use crate::units::Duration;

/// Longest time for an answer of Redis: an instance that hangs for longer counts as dead for the others.
const LONGEST_TIMEOUT: Duration = Duration(std::time::Duration::from_secs(2));

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let Some(cluster) = &config.cluster else { return };
    let path = Path::Root.key("cluster");
    let redis = path.key("redis");
    let mut with_tls = Vec::new();
    let urls = cluster.redis.as_slice();
    for (index, url) in urls.iter().enumerate() {
        let item = redis.index(index);
        let at = if matches!(cluster.redis, OneOrMany::One(_)) { &redis } else { &item };
        match RedisUrl::parse(url) {
            Err(why) => {
                let shown = rules.shown(at, url);
                let why = rules.why(at, why, "write it like `redis://valkey:6379`");
                rules.value(codes::REDIS, at, format!("{shown} is not the URL of a Redis"), why);
            }
            Ok(parsed) if cluster.mode == RedisMode::Cluster && parsed.database != 0 => {
                let hint = "remove the number: a Redis Cluster has database 0 alone";
                rules.value(codes::REDIS, at, format!("database {} does not exist there", parsed.database), hint);
            }
            Ok(parsed) => with_tls.push(parsed.tls),
        }
    }
    if urls.is_empty() {
        rules.value(codes::REDIS, &redis, "there is no address", "write `redis: redis://valkey:6379`");
    }
    if with_tls.iter().any(|tls| *tls != with_tls[0]) {
        let message = "some of these URLs are with TLS and some without";
        rules.value(codes::CONTRADICTION, &redis, message, "write `rediss://` in all of them, or in none");
    } else if cluster.tls.is_some() && with_tls.iter().any(|tls| !tls) {
        let message = "the URL begins with `redis://`, so nothing is encrypted";
        rules.key(codes::NOT_HERE, &path.key("tls"), message, "write `rediss://` in `redis`, or remove `tls`");
    }
    match (&cluster.master, cluster.mode) {
        (None, RedisMode::Sentinel) if rules.is_whole(&path) => {
            let hint = "add `master: mymaster`, the name in `sentinel monitor`";
            rules.key(codes::MISSING_KEY, &path, "sentinels watch several primaries, and none is named", hint);
        }
        (Some(_), RedisMode::Single | RedisMode::Cluster) => {
            let message = "`master` is a name that sentinels know";
            rules.key(codes::NOT_HERE, &path.key("master"), message, "write `mode: sentinel`, or remove it");
        }
        _ => {}
    }
    if cluster.username.is_some() && cluster.password_file.is_none() && rules.is_whole(&path) {
        let hint = "add `password_file: /run/secrets/redis_password`, or remove it";
        rules.key(codes::MISSING_KEY, &path.key("username"), "a user without a password cannot log in", hint);
    }
    if let Some(file) = &cluster.password_file {
        notifications::secret(&path.key("password_file"), file, rules);
    }
    if let Some(settings) = &cluster.tls {
        tls::trust(&path.key("tls"), settings, "the certificate of Redis is", rules);
    }
    rules.name(&path.key("name"), &cluster.name, "a cluster", false);
    if let Some(instance) = &cluster.instance {
        rules.name(&path.key("instance"), instance, "an instance", false);
    }
    rules.not_zero(&path.key("timeout"), cluster.timeout, "leave it out for the default");
    if cluster.timeout > LONGEST_TIMEOUT {
        let message = "an answer of Redis that takes longer than two seconds is of no use";
        rules.value(codes::RANGE, &path.key("timeout"), message, "write `2s` at most");
    }
}
