//! What caps are decided from.

use super::*;

fn settings(body: &str) -> Vec<(Key, Setting)> {
    assert_same_at_every_split(Want::ModelOnly, body.as_bytes());
    let mut scan = ModelScan::new(Want::ModelOnly);
    scan.push(body.as_bytes());
    assert_eq!(scan.at_end(), Ok(()), "{body}");
    scan.settings().map(|(key, setting)| (key, setting.clone())).collect()
}

#[test]
fn numbers_and_durations_are_kept() {
    let body = r#"{"model":"m","keep_alive":"1h30m","options":{"seed":1,"num_ctx":8192,"stop":["\n",{}],
        "num_predict":-1,"num_gpu":0},"max_tokens":1e3,"max_completion_tokens":2,"max_output_tokens":3.9}"#;
    let number = Setting::Number;
    assert_eq!(
        settings(body),
        [
            (Key::KeepAlive, Setting::Text("1h30m".into())),
            (Key::NumCtx, number(8192.0)),
            (Key::NumPredict, number(-1.0)),
            (Key::NumGpu, number(0.0)),
            (Key::MaxTokens, number(1000.0)),
            (Key::MaxCompletionTokens, number(2.0)),
            (Key::MaxOutputTokens, number(3.9)),
        ]
    );
    assert_eq!(settings(r#"{"keep_alive":-1}"#), [(Key::KeepAlive, number(-1.0))]);
    assert_eq!(settings(r#"{"keep_alive":"\u0031m"}"#), [(Key::KeepAlive, Setting::Text("1m".into()))]);
}

#[test]
fn null_is_nothing_and_another_kind_is_told() {
    assert_eq!(settings(r#"{"keep_alive":null,"options":{"num_ctx":null},"max_tokens":null}"#), []);
    let long = "0".repeat(100);
    for value in ["true", "false", "[1]", "{\"num_ctx\":1}", &format!("\"{long}\""), &format!("1.{long}")] {
        assert_eq!(settings(&format!(r#"{{"keep_alive":{value}}}"#)), [(Key::KeepAlive, Setting::Other)], "{value}");
        let body = format!(r#"{{"options":{{"num_ctx":{value}}}}}"#);
        assert_eq!(settings(&body), [(Key::NumCtx, Setting::Other)], "{value}");
    }
    let text = Setting::Text("4096".into());
    assert_eq!(settings(r#"{"options":{"num_ctx":"4096"}}"#), [(Key::NumCtx, text)]);
}

#[test]
fn they_count_only_where_ollama_looks() {
    let body = r#"{"num_ctx":1,"options":[{"num_ctx":2}],"a":{"options":{"num_ctx":3},"keep_alive":4}}"#;
    assert_eq!(settings(body), []);
    assert_eq!(settings(r#"{"options":{"a":{"num_ctx":1},"num_ctx":5}}"#), [(Key::NumCtx, Setting::Number(5.0))]);
}

#[test]
fn they_are_known_before_the_last_byte() {
    let mut scan = ModelScan::new(Want::ModelOnly);
    scan.push(br#"{"model":"m","options":{"num_ctx":10000000,"#);
    assert_eq!(scan.num_ctx(), Some(&Setting::Number(1e7)));
    scan.push(br#""num_predict":-1,"num_gpu":0},"keep_alive":"#);
    assert_eq!((scan.num_predict(), scan.num_gpu()), (Some(&Setting::Number(-1.0)), Some(&Setting::Number(0.0))));
    assert_eq!(scan.keep_alive(), None);
    scan.push(br#"-1,"#);
    assert_eq!(scan.keep_alive(), Some(&Setting::Number(-1.0)));
    assert!(!scan.is_closed());
}
