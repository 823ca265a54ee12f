//! What went wrong with Redis.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why Redis did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no connection now; it was not asked.
    #[error("there is no connection")]
    Down,
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// It cannot be reached, or cannot do its work: another connection is needed.
    #[error("{0}")]
    Unusable(String),
    /// Another node of the Redis Cluster has the keys.
    #[error("the keys moved to {0}:{1}")]
    Moved(String, u16),
    /// Its memory is full: it takes nothing more that would need some.
    #[error("{0}")]
    Full(String),
    /// It refused this one call.
    #[error("{0}")]
    Refused(String),
}

impl Fault {
    /// Whether another connection is needed.
    pub const fn is_lasting(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Full(_) | Self::Down)
    }

    /// The word for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Timeout(_) => "timeout",
            Self::Unusable(_) | Self::Moved(..) => "unusable",
            Self::Refused(_) | Self::Full(_) => "refused",
        }
    }
}

/// Answers that say that nothing can be done on this connection now, beside those that the library knows by kind: access that
/// was withdrawn, replicas that are missing.
const UNUSABLE: [&str; 6] = ["NOAUTH", "WRONGPASS", "MISCONF", "NOREPLICAS", "READONLY", "LOADING"];

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let kind = error.kind();
        let lost = error.is_unrecoverable_error();
        let text = error.to_string();
        // Of several calls that were sent together, the first that failed.
        let errors = error.into_server_errors();
        let Some((_, server)) = errors.as_ref().and_then(|errors| errors.first()) else {
            let unusable = matches!(
                kind,
                ErrorKind::AuthenticationFailed | ErrorKind::Io | ErrorKind::Parse | ErrorKind::RESP3NotSupported
            );
            return if unusable || lost { Self::Unusable(text) } else { Self::Refused(text) };
        };
        let details = server.details().unwrap_or_default();
        let text = format!("{} {details}", server.code());
        if server.kind() == Some(ServerErrorKind::Moved)
            && let Some((host, port)) = details.split_whitespace().nth(1).and_then(|node| node.rsplit_once(':'))
            && let Ok(port) = port.parse()
        {
            return Self::Moved(host.trim_matches(['[', ']']).to_owned(), port);
        }
        let unusable = matches!(
            server.kind(),
            Some(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::NoPerm
            )
        );
        if text.contains("OOM ") {
            return Self::Full(text.trim_end().to_owned());
        }
        // A script passes on the error of a call within it, whose code then stands in its text.
        if unusable || UNUSABLE.iter().any(|code| text.contains(code)) {
            Self::Unusable(text.trim_end().to_owned())
        } else {
            Self::Refused(text.trim_end().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::{ServerError, Value, parse_redis_value};

    use super::*;

    fn fault(answer: &str) -> Fault {
        let value = parse_redis_value(answer.as_bytes()).expect("RESP");
        let Value::ServerError(error) = value else { panic!("{value:?}") };
        let error: ServerError = error;
        Fault::from(RedisError::from(error))
    }

    #[test]
    fn what_needs_another_connection_is_told_from_what_one_call_was_refused_for() {
        for answer in [
            "-LOADING Redis is loading the dataset in memory\r\n",
            "-READONLY You can't write against a read only replica.\r\n",
            "-NOAUTH Authentication required.\r\n",
            "-CLUSTERDOWN Hash slot not served\r\n",
        ] {
            let fault = fault(answer);
            assert!(matches!(fault, Fault::Unusable(_)) && fault.is_lasting(), "{answer} {fault:?}");
        }
        for answer in ["-OOM command not allowed\r\n", "-ERR Error running script: OOM command not allowed\r\n"] {
            assert!(matches!(fault(answer), Fault::Full(_)) && !fault(answer).is_lasting(), "{answer}");
        }
        for answer in ["-WRONGTYPE Operation against a key\r\n", "-ERR unknown command\r\n"] {
            assert!(matches!(fault(answer), Fault::Refused(_)), "{answer}");
        }
    }

    #[test]
    fn a_node_that_the_keys_moved_to_is_named() {
        assert_eq!(fault("-MOVED 3999 10.0.0.7:6381\r\n"), Fault::Moved("10.0.0.7".to_owned(), 6381));
        assert_eq!(fault("-MOVED 3999 [::1]:6381\r\n"), Fault::Moved("::1".to_owned(), 6381));
        assert_eq!(fault("-MOVED 3999 :6381\r\n"), Fault::Moved(String::new(), 6381));
    }
}
