//! Certificates: those that we show, and those of servers.

use super::super::codes;
use super::super::facts::{Facts, ServerFacts};
use super::super::finding::Finding;
use super::{Lines, count};
use crate::policy::health_score::Certificate;

/// Judges them.
pub fn judge(facts: &Facts) -> (Lines, Vec<Finding>) {
    let mut found = Vec::new();
    let mut lines = Vec::new();
    let ours: Vec<(String, i64)> = match (&facts.running, facts.config.good()) {
        (Ok(running), _) => running.health.certificates.iter().map(|one| (one.name.clone(), one.not_after)).collect(),
        (Err(_), Some(good)) => good.snapshot.certificate_expiries().into_iter().collect(),
        (Err(_), None) => Vec::new(),
    };
    for (name, end) in &ours {
        lines.push(format!("certificate `{name}`: {}", left(*end, facts.now)));
        let fix = "renew it (`certbot renew`, or whoever issues it); Arriero takes the new files within 2 seconds";
        found.extend(match Certificate::of(*end, facts.now) {
            Certificate::Good => None,
            Certificate::EndsSoon => Some(Finding::new(
                codes::CERTIFICATE_EXPIRING,
                format!("the certificate `{name}` {}", left(*end, facts.now)),
                fix,
            )),
            Certificate::Ended => Some(Finding::new(
                codes::CERTIFICATE_EXPIRED,
                format!("the certificate `{name}` {}: clients refuse it", left(*end, facts.now)),
                fix,
            )),
        });
    }
    facts.servers.iter().for_each(|server| of_server(server, facts.now, &mut lines, &mut found));
    unchecked(facts, &mut found);
    if lines.is_empty() {
        lines.push("no TLS is spoken".to_owned());
    }
    (lines, found)
}

fn of_server(server: &ServerFacts, now: i64, lines: &mut Lines, found: &mut Vec<Finding>) {
    let Some(certificate) = &server.certificate else { return };
    let (id, end) = (&server.id, certificate.not_after);
    lines.push(format!("certificate of the server `{id}`: {}", left(end, now)));
    match Certificate::of(end, now) {
        Certificate::Ended => found.push(Finding::new(
            codes::SERVER_CERTIFICATE_EXPIRED,
            format!("the certificate of the server `{id}` {}", left(end, now)),
            "renew it on the server, and have what serves it there read it again",
        )),
        Certificate::EndsSoon => found.push(Finding::new(
            codes::SERVER_CERTIFICATE_EXPIRING,
            format!("the certificate of the server `{id}` {}", left(end, now)),
            "renew it on the server before it ends",
        )),
        Certificate::Good => {}
    }
    // What has ended is refused because of that.
    if let Some(why) = certificate.refused.as_ref().filter(|_| end >= now) {
        found.push(Finding::new(
            codes::SERVER_CERTIFICATE_UNTRUSTED,
            format!("the certificate of the server `{id}` is refused: {why}"),
            "name its authority (`tls.ca`) or the name that it has (`tls.server_name`) in the upstream",
        ));
    }
}

fn unchecked(facts: &Facts, found: &mut Vec<Finding>) {
    let upstreams = facts.config.good().into_iter().flat_map(|good| &good.config.upstreams);
    let blind = upstreams.filter(|(_, upstream)| upstream.tls.as_ref().is_some_and(|tls| !tls.verify));
    found.extend(blind.map(|(name, _)| {
        Finding::new(
            codes::CERTIFICATES_UNCHECKED,
            format!(
                "the upstream `{name}` does not check certificates: anybody in between reads and changes everything"
            ),
            format!("take `verify: false` out of `upstreams.{name}.tls` and name the authority: `ca: FILE`"),
        )
    }));
}

/// How long a certificate is valid.
fn left(end: i64, now: i64) -> String {
    let days = |seconds: i64| count(u64::try_from(seconds / 86_400).unwrap_or_default(), "day");
    if end < now { format!("ended {} ago", days(now - end)) } else { format!("ends in {}", days(end - now)) }
}
