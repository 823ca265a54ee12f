//! Files that are damaged, or made to do harm: they end soon, in little memory, in an error.

use std::fmt::Write;

use super::{GOOD, found, load};

#[test]
fn every_truncation_is_an_error_or_a_valid_file() {
    let text = crate::config::reference_yaml();
    let step = (text.len() / 100).max(1);
    for end in (0..text.len()).step_by(step) {
        if let Some(Err(found)) = text.get(..end).map(load) {
            assert!(!found.0.is_empty());
            assert!(!found.render(false).is_empty());
        }
    }
    for end in 0..GOOD.len() {
        let _ = load(&GOOD[..end]);
    }
}

#[test]
fn an_empty_file_is_refused() {
    for text in ["", "\n", "# only a comment\n", "---\n", "~", "null\n"] {
        assert_eq!(found(text), ["E006 0:0 "], "{text:?}");
    }
}

#[test]
fn a_file_that_is_no_mapping_is_refused() {
    assert_eq!(found("hello"), ["E012 1:1 "]);
    assert_eq!(found("[1, 2]"), ["E012 1:1 "]);
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in ('a'..'i').zip('b'..='i') {
        let _ = writeln!(text, "{to}: &{to} [{}]", [format!("*{from}").as_str(); 9].join(", "));
    }
    let codes = found(&text);
    assert_eq!(codes.len(), 1);
    assert!(codes[0].starts_with("E009 "), "{codes:?}");
}

#[test]
fn an_alias_bomb_of_long_texts_is_refused() {
    let mut text = format!("a: &a \"{}\"\nb: [", "x\\n".repeat(50_000));
    text.push_str(&"*a, ".repeat(100_000));
    text.push_str("]\n");
    assert!(found(&text)[0].starts_with("E009 "));
}

#[test]
fn an_alias_inside_its_anchor_is_refused() {
    assert!(found("a: &a [*a]\n")[0].starts_with("E007 1:8"));
}

#[test]
fn a_file_nested_a_hundred_thousand_deep_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let codes = found(&text);
        assert!(codes[0].starts_with("E009 1:"), "{codes:?}");
    }
    let mut block = String::new();
    for depth in 0..300 {
        let _ = writeln!(block, "{}a:", " ".repeat(depth));
    }
    assert!(found(&block)[0].starts_with("E009 65:"));
}

#[test]
fn aliases_count_for_the_depth() {
    let mut text = format!("a: &a {}{}\n", "[".repeat(60), "]".repeat(60));
    let _ = writeln!(text, "b: {}*a{}", "[".repeat(10), "]".repeat(10));
    assert!(found(&text)[0].starts_with("E009 2:14"), "{:?}", found(&text));
}

#[test]
fn too_many_values_are_refused() {
    let text = format!("a: [{}]\n", "1,".repeat(300_000));
    assert!(found(&text)[0].starts_with("E009 1:"));
    let mut routes = GOOD.to_owned();
    routes.push_str("routes:\n");
    for _ in 0..200_000 {
        routes.push_str("  - name: a\n");
    }
    assert!(found(&routes)[0].starts_with("E009 "));
}

#[test]
fn duplicate_keys_are_all_reported() {
    let text = GOOD.replace("    upstream: fleet\n", "    upstream: fleet\n    name: other\n") + "version: 1\n";
    assert_eq!(found(&text), ["E008 7:5 ", "E008 13:1 "]);
    let message = load(&text).err().map(|found| found.0[0].to_string()).unwrap_or_default();
    assert!(message.contains("`name` stands twice") && message.contains("line 5"), "{message}");
}

#[test]
fn parts_of_yaml_that_hide_meaning_are_refused() {
    assert_eq!(found("version: !!int 1\n"), ["E007 1:10 "]);
    assert_eq!(found("version: !x 1\n"), ["E007 1:10 "]);
    assert_eq!(found("version: 1\n---\nversion: 1\n"), ["E007 2:1 "]);
    assert_eq!(found("? [a]\n: 1\n"), ["E007 1:3 "]);
    assert_eq!(found("a: &a x\n*a : 1\n"), ["E007 2:1 "]);
    assert_eq!(found("<<: 1\n"), ["E007 1:5 "]);
}

#[test]
fn yaml_errors_have_a_position_and_a_hint() {
    assert_eq!(found("version: *nothing\n"), ["E005 1:10 "]);
    let tabs = load("version: 1\nlisteners:\n\t- address: a\n").err().unwrap_or_default();
    assert_eq!((tabs.0[0].code, tabs.0[0].line), ("E005", 3));
    assert_eq!(tabs.0[0].hint.as_deref(), Some("indent with spaces, not tabs"));
    let flow = load("version: 1\nserver: { threads: ${N} }\n").err().unwrap_or_default();
    assert_eq!((flow.0[0].code, flow.0[0].line), ("E005", 2));
    assert!(flow.0[0].hint.as_deref().is_some_and(|hint| hint.contains("quotes")), "{flow}");
}

#[test]
fn noise_never_panics() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let alphabet: Vec<char> = "a:- \n[]{}\"'&*!|>%@`#,?$ä\t0~<".chars().collect();
    for _ in 0..2_000 {
        let mut text = String::new();
        for _ in 0..60 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push(alphabet[usize::try_from(state % 29).unwrap_or_default() % alphabet.len()]);
        }
        if let Err(found) = load(&text) {
            let _ = found.render(false);
        }
    }
}

#[test]
fn a_very_long_line_is_not_shown() {
    let text = format!("version: 1\nlisteners: [{}]\n", "{ address: 8080 },".repeat(100));
    let found = load(&text).err().unwrap_or_default();
    assert!(found.render(false).len() < 40_000);
}
