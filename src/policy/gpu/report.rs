//! What `arriero gpu-agent` answers at `/v1/gpus`.

use serde::{Deserialize, Serialize};

use super::reading::{Reading, Unread};

/// A reading with where and when it was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Report {
    /// When it was made, in milliseconds since 1970 by the clock of that host.
    pub at: u64,
    /// Version of the agent.
    pub version: String,
    /// Name of the host.
    pub hostname: String,
    /// Why there is no reading; then there are no cards either.
    pub unread: Option<Unread>,
    /// The same for people, with how to mend it.
    pub detail: Option<String>,
    /// The reading.
    #[serde(flatten)]
    pub reading: Reading,
}

impl Report {
    /// The reading, or why there is none.
    ///
    /// # Errors
    /// When the agent has none.
    pub fn outcome(self) -> Result<Reading, Unread> {
        match self.unread {
            Some(unread) => Err(unread),
            None => Ok(self.reading),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::gpu::reading::Card;

    #[test]
    fn a_report_is_a_reading_with_more_keys() {
        let reading = Reading { cards: vec![Card { index: Some(0), ..Card::default() }], ..Reading::default() };
        let report = Report { at: 5, hostname: "h".into(), reading: reading.clone(), ..Report::default() };
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!((&json["at"], &json["cards"][0]["index"]), (&5.into(), &0.into()));
        assert_eq!(serde_json::from_value::<Reading>(json.clone()).expect("a reading"), reading);
        assert_eq!(serde_json::from_value::<Report>(json).expect("the same").outcome(), Ok(reading));
    }

    #[test]
    fn without_a_reading_it_says_why() {
        let report: Report = serde_json::from_str(r#"{"at":1,"unread":"hangs"}"#).expect("a report");
        assert_eq!(report.outcome(), Err(Unread::Hangs));
    }
}
