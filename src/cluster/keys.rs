//! The names of keys and channels.
//!
//! `arriero:1:{NAME}:…`: the version of what is written comes first, so that instances of two versions that write differently
//! do not read each other; the name of the cluster in braces puts all keys into one slot of a Redis Cluster, which scripts
//! with several keys need.

/// Version of what is written.
const VERSION: u32 = 1;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Requests that run and wait.
    Load,
    /// What operators decided.
    Decisions,
    /// Answers that instances keep together.
    Answers,
    /// Who comes and goes.
    Members,
    /// Quotas that were begun anew.
    Quotas,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 5] = [Self::Load, Self::Decisions, Self::Answers, Self::Members, Self::Quotas];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Decisions => "decisions",
            Self::Answers => "answers",
            Self::Members => "members",
            Self::Quotas => "quotas",
        }
    }
}

/// Makes names.
#[derive(Clone, Debug)]
pub struct Keys(String);

impl Keys {
    /// Of a cluster.
    pub fn new(cluster: &str) -> Self {
        Self(format!("arriero:{VERSION}:{{{cluster}}}:"))
    }

    /// A key.
    pub fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.0)
    }

    /// The channel of a topic.
    pub fn channel(&self, topic: Topic) -> String {
        format!("{}:{}", self.key("told"), topic.as_str())
    }

    /// The topic of a channel.
    pub fn topic(&self, channel: &[u8]) -> Option<Topic> {
        let rest = channel.strip_prefix(self.0.as_bytes())?.strip_prefix(b"told:")?;
        Topic::ALL.into_iter().find(|topic| topic.as_str().as_bytes() == rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_again_and_no_other_is() {
        let keys = Keys::new("front");
        assert_eq!(keys.key("members"), "arriero:1:{front}:members");
        for topic in Topic::ALL {
            assert_eq!(keys.topic(keys.channel(topic).as_bytes()), Some(topic));
            assert_eq!(Keys::new("back").topic(keys.channel(topic).as_bytes()), None);
        }
        assert_eq!(keys.topic(b"arriero:1:{front}:told:unknown"), None);
    }
}
