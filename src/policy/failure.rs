//! Reasons: the one closed list of words that say why a request ended as it did.
//!
//! # Problem
//!
//! Whoever looks at a failed request has a log line, a metric or an answer in front of them, seldom all
//! three. The three must say the same word, and each word must be found in the documentation.
//!
//! # Invariants
//!
//! - Each request ends with exactly one reason; a request that went well ends with [`Reason::Ok`].
//! - The words are `snake_case`, distinct, and never change their meaning once released.
//! - A reason with which Arriero answers in the server's place has the status of that answer. If the answer
//!   has already begun, the status cannot change any more and only log and metric tell.

use super::circuit::Outcome;

macro_rules! reasons {
    ($($group:literal { $($variant:ident, $word:literal, $status:expr, $description:literal, $advice:literal;)* })*) => {
        /// Why a request ended as it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $description] $variant,)*)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: [Self; [$($($word,)*)*].len()] = [$($(Self::$variant,)*)*];

            /// The same by what they are about.
            pub const GROUPS: &[(&str, &[Self])] = &[$(($group, &[$(Self::$variant),*])),*];

            /// The word in log, metric and header.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$variant => $word,)*)*
                }
            }

            /// The status with which Arriero answers for this reason; none where the server's answer was passed on
            /// or had already begun.
            #[must_use]
            pub const fn status(self) -> Option<u16> {
                match self {
                    $($(Self::$variant => $status,)*)*
                }
            }

            /// One sentence for the documentation.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $($(Self::$variant => $description,)*)*
                }
            }

            /// What to do about it, for the documentation.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self {
                    $($(Self::$variant => $advice,)*)*
                }
            }
        }
    };
}

reasons! {
    "It went well" {
        Ok, "ok", None, "The server answered and the whole answer reached the client.",
            "Nothing.";
    }
    "The client" {
        ClientClosed, "client_closed", Some(499), "The client left before the answer was complete; 499 stands only in log and metric.",
            "Nothing, unless many clients leave: compare their time limits with how long answers take.";
        ClientStalled, "client_stalled", None, "The client stopped reading the answer for longer than the listener's `timeouts.write`.",
            "Look at the client or the network to it; `timeouts.write` of the listener is how long it is waited for.";
        BadRequest, "bad_request", Some(400), "The request was malformed or ambiguous.",
            "The answer says what is wrong; correct the client. Two values where one is meant, and framing that two programs could read in two ways, are refused on purpose.";
        HeaderTimeout, "header_timeout", Some(408), "The request head was not complete within the listener's `timeouts.request_header`.",
            "Usual of scanners and of idle browsers; of real clients look at the network.";
        HeaderTooLarge, "header_too_large", Some(431), "The request head was larger than the listener's `limits.header_bytes` or had more than `limits.header_fields` fields.",
            "Look at the client's cookies first; then raise the limit that the text names.";
        TargetTooLong, "target_too_long", Some(414), "The request target was longer than the listener's `limits.target_bytes`.",
            "Send long texts in a body; or raise `limits.target_bytes`.";
        BodyTooLarge, "body_too_large", Some(413), "The request body was larger than the route's `limits.request_body`.",
            "Raise `limits.request_body` on the route; base64 makes an image a third larger.";
        BodyTimeout, "body_timeout", Some(408), "The request body paused for longer than the listener's `timeouts.request_body`.",
            "Look at the client or the network; `timeouts.request_body` is the longest pause, not the whole upload.";
        BodyBudget, "body_budget", Some(503), "The bodies held by this process filled `server.body_budget`.",
            "Ask again after `Retry-After`; put `model` first in the document, or raise `server.body_budget`.";
        UnsupportedEncoding, "unsupported_encoding", Some(415), "The request body was compressed, so its model could not be read.",
            "Send the body uncompressed, or set `request_encoding: decode` on the route.";
    }
    "Who asks" {
        Unauthorized, "unauthorized", Some(401), "The route asks for an API key, and the request had none that is valid.",
            "Send a key of the keys file; `arriero key list` shows which there are and when they end.";
        Forbidden, "forbidden", Some(403), "The API key is valid, and not for this model or this kind of request.",
            "Use a key with that model or scope: `arriero key new` makes one.";
        AddressDenied, "address_denied", Some(403), "The route's `access` does not let the client's address in.",
            "Look at `access` of the route; behind a proxy also at `trusted_proxies` of the listener.";
        OriginDenied, "origin_denied", Some(403), "The request came from a web page whose origin the route's `cors` does not list.",
            "List the page's origin under `cors.origins` of the route, if it is yours.";
        HostDenied, "host_denied", Some(421), "The host is not among the listener's `hosts`.",
            "Add the name to `hosts` of the listener, if it is yours.";
    }
    "What was asked for" {
        NoRoute, "no_route", Some(404), "No route matched the request.",
            "Add a route; one without `match` takes every request.";
        EndpointDenied, "endpoint_denied", Some(403), "The path is not among those that are passed on.",
            "Send it to the server itself, or set `management: allow` and use a key with the scope `management`; models that run elsewhere need `cloud_models: allow`.";
        NotKept, "not_kept", Some(504), "The request was to be answered from what is kept, and nothing is kept that answers it.",
            "Ask without `Cache-Control: only-if-cached`.";
        MethodNotAllowed, "method_not_allowed", Some(405), "The path is passed on, but not with this method.",
            "Take the method that the field `Allow` names.";
        FileNotFound, "file_not_found", Some(404), "The folder of the route has no such file.",
            "Look below `files.root`; names that begin with a dot are not served.";
        ModelRequired, "model_required", Some(400), "The request named no model where one is needed.",
            "Name a `model` in the body.";
        ModelNotFound, "model_not_found", Some(404), "No server of the upstream has the model.",
            "Look at `arriero models`; `arriero pull MODEL` brings it to the servers.";
        Quarantined, "quarantined", Some(500), "The same request made a server's runner crash within the last minutes, and one request may crash at most one runner.",
            "Do not send it again; look at the server's own log for why its runner died. `quarantine` says for how long.";
    }
    "Too much of it" {
        RateLimited, "rate_limited", Some(429), "A limit in the route's `rate_limits` had nothing left for the request.",
            "Ask again after `Retry-After`; raise the rate if it is too low for good clients.";
        QuotaExceeded, "quota_exceeded", Some(429), "A token quota was used up in the window that runs.",
            "Ask again after `Retry-After`; raise the `limit`, give the key an amount of its own, or begin the window anew with `arriero quota reset`.";
        ConcurrencyLimited, "concurrency_limited", Some(429), "A limit in the route's `concurrency` had its most requests at a time.",
            "Ask again when a request of that client has ended; raise `max` if it is too low.";
        Overloaded, "overloaded", Some(503), "The listener had its `limits.requests` requests at a time.",
            "Ask again after `Retry-After`; raise `limits.requests` or the number of file descriptors, or look who floods.";
    }
    "Nobody to send it to" {
        NoServer, "no_server", Some(503), "Each server that could answer was down, open-circuited, banned or draining.",
            "`arriero servers` says of each why; `arriero diagnose` how to mend it.";
        ServerBusy, "server_busy", Some(503), "Each server that could answer had `max_in_flight` requests.",
            "Ask again after `Retry-After`; add servers or raise `max_in_flight`.";
        QueueFull, "queue_full", Some(503), "As many requests waited for the model as `queue.max_pending` allows, or the request made room for others.",
            "Ask again after `Retry-After`; add servers, or raise `queue.max_pending` if clients wait that long.";
        QueueTimeout, "queue_timeout", Some(503), "The request waited for a slot for longer than `queue.timeout`.",
            "Ask again after `Retry-After`; add servers, or raise `queue.timeout` if clients wait that long.";
        NotLoaded, "not_loaded", Some(503), "No usable server had the model in memory, and `model_affinity` is `require_loaded`.",
            "Load it with `arriero warm MODEL`, or set `model_affinity: prefer_loaded`.";
    }
    "The server" {
        ConnectFailed, "connect_failed", Some(502), "The server could not be connected to.",
            "See whether the host and its server run; the other servers were tried before that.";
        ConnectTimeout, "connect_timeout", Some(504), "The server could not be connected to within `timeouts.connect`.",
            "See whether the host is on and reachable; a firewall that drops packets looks like this.";
        TlsFailed, "tls_failed", Some(502), "The TLS handshake with the server failed or took longer than `timeouts.tls`.",
            "`openssl s_client -connect HOST:PORT` says why; see `tls` of the upstream.";
        UpstreamReset, "upstream_reset", Some(502), "The connection to the server broke before its answer began.",
            "Look at the server's log; it, or something between, ended the connection.";
        FirstByteTimeout, "first_byte_timeout", Some(504), "The server's answer did not begin within `timeouts.first_byte`.",
            "Raise `timeouts.first_byte` if a load takes that long, else look at what the server does.";
        ReadTimeout, "read_timeout", Some(504), "The server's answer paused for longer than `timeouts.read`.",
            "The server stopped in the middle of an answer: look at its log and its card.";
        WriteTimeout, "write_timeout", Some(504), "The server did not take the request body within `timeouts.write`.",
            "The server takes no bytes: look at its load and at the network to it.";
        RequestTimeout, "request_timeout", Some(504), "The request was not finished within `timeouts.request`.",
            "Raise or remove `timeouts.request`; long answers are no errors.";
        UpstreamError, "upstream_error", None, "The server answered with a status from 500 to 599, which was passed on.",
            "The body is the server's own; look at its log.";
        UpstreamTruncated, "upstream_truncated", Some(502), "The server's answer broke off before its end.",
            "The server ended in the middle: look at its log, for a crash or a restart.";
        UpstreamProtocol, "upstream_protocol", Some(502), "The server's answer was not valid HTTP.",
            "See whether the URL leads to the server that is meant, with or without TLS and HTTP/2.";
        StreamError, "stream_error", None, "The server reported an error inside a stream that it had begun with a good status.",
            "The error is in the stream, in the server's words; a model that does not fit is the usual cause.";
    }
    "Arriero itself" {
        Shutdown, "shutdown", Some(503), "The process stopped, and the request was not finished within `server.drain`.",
            "Ask again: another instance, or the next one, answers; raise `server.drain` if requests take longer.";
        Internal, "internal", Some(500), "Arriero failed; this is a bug.",
            "Report it, with the log lines around it.";
    }
}

impl Reason {
    /// What the end of a request says about its server, for the server's circuit. `server_status` is the status
    /// that the server answered with, if it did.
    ///
    /// `None` says nothing: the client left, what it sent was wrong (4xx), or the server refused to take on more (429,
    /// 503), which is how a well server behaves.
    #[must_use]
    pub const fn verdict(self, server_status: Option<u16>) -> Option<Outcome> {
        match self {
            Self::Ok | Self::UpstreamError => match server_status {
                Some(400..=499 | 503) | None => None,
                Some(500..=599) => Some(Outcome::Failure),
                Some(_) => Some(Outcome::Success),
            },
            Self::ConnectFailed | Self::ConnectTimeout | Self::TlsFailed => Some(Outcome::NotReached),
            Self::UpstreamReset
            | Self::FirstByteTimeout
            | Self::ReadTimeout
            | Self::UpstreamTruncated
            | Self::UpstreamProtocol
            | Self::StreamError => Some(Outcome::Failure),
            _ => None,
        }
    }

    /// Whether a request failed that was right: the servers, the fleet's room or Arriero itself were to blame, and not
    /// the client.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        let is_told = matches!(self.status(), Some(500..)) || matches!(self, Self::UpstreamError | Self::StreamError);
        // Who asks for what is kept alone has asked for no more.
        is_told && !matches!(self, Self::NotKept)
    }

    /// Whom a verdict is about, where the request named a model.
    #[must_use]
    pub const fn blames(self, server_status: Option<u16>) -> Blame {
        match self {
            // A gateway in front of the server, or the server as a whole.
            Self::Ok | Self::UpstreamError => match server_status {
                Some(502 | 504) => Blame::Server,
                Some(500..=599) => Blame::Model,
                _ => Blame::Both,
            },
            // One model hangs, or all do: the others' good answers tell.
            Self::FirstByteTimeout => Blame::Both,
            Self::ReadTimeout | Self::UpstreamTruncated | Self::StreamError => Blame::Model,
            _ => Blame::Server,
        }
    }
}

/// Whose circuit a verdict goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The server's.
    Server,
    /// That of the model on the server.
    Model,
    /// Either.
    Both,
}

impl Blame {
    /// Whether the server's circuit hears of it.
    #[must_use]
    pub const fn server(self) -> bool {
        !matches!(self, Self::Model)
    }

    /// Whether the circuit of the model on the server hears of it.
    #[must_use]
    pub const fn model(self) -> bool {
        !matches!(self, Self::Server)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_words_are_distinct_and_in_snake_case() {
        let words: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for word in words {
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
        }
    }

    #[test]
    fn each_word_is_the_name_of_its_variant() {
        for reason in Reason::ALL {
            let name: String = format!("{reason:?}")
                .char_indices()
                .flat_map(|(index, letter)| {
                    let underscore = (index > 0 && letter.is_ascii_uppercase()).then_some('_');
                    underscore.into_iter().chain([letter.to_ascii_lowercase()])
                })
                .collect();
            assert_eq!(reason.as_str(), name);
        }
    }

    #[test]
    fn each_is_described_by_one_sentence() {
        for reason in Reason::ALL {
            let text = reason.describe();
            assert!(text.ends_with('.') && text.starts_with(|letter: char| letter.is_ascii_uppercase()), "{text}");
            assert!(!text.contains(". "), "{text}");
            assert!(reason.advice().ends_with('.'), "{reason}");
        }
    }

    #[test]
    fn own_answers_are_errors() {
        for reason in Reason::ALL {
            assert!(reason.status().is_none_or(|status| (400..=504).contains(&status)), "{reason}");
        }
        assert_eq!(Reason::Ok.status(), None);
    }

    #[test]
    fn a_server_is_blamed_for_its_own_failures_only() {
        assert_eq!(Reason::ConnectFailed.verdict(None), Some(Outcome::NotReached));
        assert_eq!(Reason::UpstreamError.verdict(Some(500)), Some(Outcome::Failure));
        assert_eq!(Reason::UpstreamError.verdict(Some(503)), None);
        assert_eq!(Reason::Ok.verdict(Some(200)), Some(Outcome::Success));
        for status in [400, 404, 413, 429, 499] {
            assert_eq!(Reason::Ok.verdict(Some(status)), None, "{status}");
        }
        for reason in [Reason::ClientClosed, Reason::ClientStalled, Reason::BodyTimeout, Reason::ServerBusy] {
            assert_eq!(reason.verdict(Some(200)), None);
        }
    }

    #[test]
    fn a_model_that_fails_is_told_from_a_server_that_does() {
        for reason in [Reason::ReadTimeout, Reason::UpstreamTruncated, Reason::StreamError] {
            assert_eq!(reason.blames(Some(200)), Blame::Model, "{reason}");
            assert_eq!(reason.verdict(Some(200)), Some(Outcome::Failure), "{reason}");
        }
        for reason in [Reason::ConnectFailed, Reason::TlsFailed, Reason::UpstreamReset, Reason::UpstreamProtocol] {
            assert_eq!(reason.blames(None), Blame::Server, "{reason}");
        }
        assert_eq!(Reason::UpstreamError.blames(Some(500)), Blame::Model);
        assert_eq!(Reason::UpstreamError.blames(Some(502)), Blame::Server);
        assert_eq!(Reason::Ok.blames(Some(200)), Blame::Both);
        assert_eq!(Reason::FirstByteTimeout.blames(None), Blame::Both);
    }
}
