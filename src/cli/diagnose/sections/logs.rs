//! Errors of the last minutes, grouped: requests by their reason, messages by their text.

use std::collections::BTreeMap;

use super::super::codes;
use super::super::facts::{Facts, Running};
use super::super::finding::Finding;
use super::containers::concerned;
use super::{Lines, count};
use crate::policy::failure::Reason;

/// Groups of messages that are told, the largest first.
const GROUPS: usize = 5;
/// Longest message that is told, in characters.
const LONGEST: usize = 160;

/// Judges them.
pub fn judge(facts: &Facts, own: Option<&str>) -> (Lines, Vec<Finding>) {
    let mut lines = Vec::new();
    let mut found = Vec::new();
    if let Ok(running) = &facts.running {
        let requests = &running.health.requests;
        let over = count(requests.window_seconds, "second");
        lines.push(format!("{} ended within the last {over}", count(requests.ended, "request")));
        reasons(running, &mut found);
        let texts = running.messages.iter().map(|one| match one.fields["error"].as_str() {
            Some(error) => format!("{}: {}: {error}", one.level.to_lowercase(), one.message),
            None => format!("{}: {}", one.level.to_lowercase(), one.message),
        });
        for (text, times) in groups(texts) {
            found.push(Finding::new(
                codes::MESSAGES_LOGGED,
                format!("logged {}: {text}", count(times, "time")),
                "the log of Arriero says more about each",
            ));
        }
    }
    for container in concerned(facts, own) {
        let all = container.errors.len() as u64;
        if let Some((text, times)) = groups(container.errors.iter().cloned()).into_iter().next() {
            let name = &container.name;
            found.push(Finding::new(
                codes::CONTAINER_ERRORS,
                format!(
                    "the container `{name}` logged {} about errors within the last hour; most often ({times}): {text}",
                    count(all, "line")
                ),
                format!("`docker logs --since 1h {name}` shows all of them"),
            ));
        }
    }
    (lines, found)
}

fn reasons(running: &Running, found: &mut Vec<Finding>) {
    let all = &running.health.requests.by_reason;
    let known = all
        .iter()
        .filter_map(|(word, times)| Some((Reason::ALL.into_iter().find(|reason| reason.as_str() == word)?, *times)));
    let mut known: Vec<(Reason, u64)> = known.collect();
    known.sort_by_key(|(reason, times)| (std::cmp::Reverse(*times), *reason));
    for (reason, times) in known {
        let code = if reason.is_failure() { codes::REQUESTS_FAILED } else { codes::REQUESTS_REFUSED };
        let what = format!("{} ended with `{reason}`: {}", count(times, "request"), lower(reason.describe()));
        found.push(Finding::new(code, what, mend(reason)));
    }
}

/// The sentence inside another one.
fn lower(sentence: &str) -> String {
    let mut letters = sentence.trim_end_matches('.').chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// What helps against requests that end so.
const fn mend(reason: Reason) -> &'static str {
    match reason {
        Reason::NoServer => "the section `servers` says why each server is left out; bring one back",
        Reason::ServerBusy | Reason::QueueFull | Reason::QueueTimeout | Reason::Overloaded => {
            "put the model on more servers, raise `max_in_flight` where a server has room, or `queue.max_pending` and `queue.timeout`"
        }
        Reason::NotKept => "the client asked for what is kept alone (`only-if-cached`): nothing is wrong",
        Reason::NotLoaded => "load the model (`warm:`), or `model_affinity: prefer_loaded`",
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::TlsFailed => {
            "see whether the server runs and can be reached from where Arriero runs"
        }
        Reason::FirstByteTimeout => {
            "the model took longer to load or to think than `timeouts.first_byte`: raise it, or keep the model loaded (`warm:`, `pin`)"
        }
        Reason::ReadTimeout => {
            "the server fell silent in the middle of an answer: see its log, or raise `timeouts.read`"
        }
        Reason::WriteTimeout => "the server does not take what is sent: see its log and the network to it",
        Reason::RequestTimeout => "raise the route's `timeouts.request`, or take it out",
        Reason::UpstreamReset
        | Reason::UpstreamTruncated
        | Reason::UpstreamProtocol
        | Reason::UpstreamError
        | Reason::StreamError => {
            "see the server's own log (`journalctl -u ollama`): a runner that crashes for want of memory looks like this"
        }
        Reason::BodyBudget => "raise `server.body_budget`, or let fewer large requests run at a time (`concurrency`)",
        Reason::Quarantined => {
            "a request made runners crash: find out which by the access log, and why by the server's log"
        }
        Reason::Shutdown => "raise `server.drain` and the time that Docker, systemd or Kubernetes gives",
        Reason::Internal => "this is a bug: report it with the log lines around it",
        Reason::ClientClosed | Reason::ClientStalled => {
            "clients gave up: see how long they wait, and whether a proxy in front has a shorter time limit"
        }
        Reason::BodyTooLarge => "raise the route's `limits.request_body` if such requests are meant to pass",
        Reason::ModelNotFound => "pull the model on a server of that upstream, or correct its name in the client",
        Reason::RateLimited | Reason::ConcurrencyLimited => {
            "the limit does its work; raise it if such clients are welcome"
        }
        Reason::QuotaExceeded => {
            "the quota does its work: `arriero quota` says whose; raise it, or give the key an amount of its own"
        }
        Reason::Unauthorized
        | Reason::Forbidden
        | Reason::AddressDenied
        | Reason::OriginDenied
        | Reason::HostDenied => "give the client a key, or let it in: `auth`, `access`, `cors`, `hosts`",
        Reason::NoRoute | Reason::EndpointDenied | Reason::MethodNotAllowed => {
            "add a route for it, or `management: allow` where such calls are meant to pass"
        }
        _ => "the client's request was not in order: the access log says who sent it",
    }
}

/// Texts that differ only in their numbers, and how often each came; the largest groups first.
fn groups(texts: impl Iterator<Item = String>) -> Vec<(String, u64)> {
    let mut groups: BTreeMap<String, (String, u64)> = BTreeMap::new();
    for text in texts {
        let key =
            text.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#");
        groups.entry(key).or_insert_with(|| (text.chars().take(LONGEST).collect(), 0)).1 += 1;
    }
    let mut groups: Vec<(String, u64)> = groups.into_values().collect();
    groups.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    groups.truncate(GROUPS);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_numbers_are_one_group() {
        let texts = ["at 10:00 request 7 failed", "other", "at 10:01 request 8 failed", "other 2", "other"];
        let groups = groups(texts.into_iter().map(str::to_owned));
        assert_eq!(
            groups,
            [("at 10:00 request 7 failed".to_owned(), 2), ("other".to_owned(), 2), ("other 2".to_owned(), 1)]
        );
    }

    #[test]
    fn every_failure_has_a_fix_of_its_own() {
        let usual = mend(Reason::BadRequest);
        for reason in Reason::ALL.into_iter().filter(|reason| reason.is_failure()) {
            assert_ne!(mend(reason), usual, "{reason}");
        }
    }
}
