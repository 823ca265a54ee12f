//! The JSON of Arriero's own agent (`GET /v1/gpus`).

use std::time::Duration;

use super::Why;
use super::fetch::{Question, get};
use crate::config::{ServerUrl, WebhookUrl};
use crate::policy::gpu::reading::Reading;
use crate::policy::gpu::report::Report;

/// Largest answer that is read.
const MOST: u64 = 4 << 20;

/// Asks an agent.
///
/// # Errors
/// Why there is no reading.
pub(super) async fn read(url: &ServerUrl, token: Option<&str>, deadline: Duration) -> Result<Reading, Why> {
    let url = WebhookUrl { tls: url.tls, address: url.address.clone(), target: "/v1/gpus".to_owned() };
    let mut body = Vec::new();
    let question = Question { url: &url, token, accept: "application/json", most: MOST, deadline };
    get(question, |piece| body.extend_from_slice(piece)).await.map_err(|fault| Why::silent(fault.text))?;
    outcome(&body)
}

fn outcome(body: &[u8]) -> Result<Reading, Why> {
    // Other JSON must not be taken for a host without cards: an agent always says when it looked.
    let report = serde_json::from_slice::<Report>(body).ok().filter(|report| report.at > 0);
    let report = report.ok_or_else(|| Why::silent("the answer is not an agent's"))?;
    let detail = report.detail.clone().unwrap_or_else(|| "the agent has no reading".to_owned());
    report.outcome().map_err(|unread| Why { unread, detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::gpu::reading::Unread;

    #[test]
    fn a_report_is_a_reading_or_says_why_there_is_none() {
        let good = r#"{"at":1,"version":"9","hostname":"h","cards":[{"index":0,"memoryUsed":5}],"new":{"key":1}}"#;
        let reading = outcome(good.as_bytes()).expect("a reading");
        assert_eq!((reading.cards[0].index, reading.cards[0].memory_used), (Some(0), Some(5)));
        let down = outcome(br#"{"at":1,"unread":"driver_down","detail":"not loaded","cards":[]}"#);
        assert_eq!(down, Err(Why { unread: Unread::DriverDown, detail: "not loaded".to_owned() }));
        let silent = Err(Why::silent("the answer is not an agent's"));
        for other in
            ["", "{}", "[]", "{\"cards\":[]}", "{\"at\":1,\"unread\":\"new word\"}", "<html>", "{\"at\":1,\"cards\":"]
        {
            assert_eq!(outcome(other.as_bytes()), silent, "{other}");
        }
    }
}
