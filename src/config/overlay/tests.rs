use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Edit, NotSaved, Overlay, Place, difference, has_mask, masked, save};
use crate::config;

const FILE: &str = "\
# Our fleet.
version: 1 # of the format
listeners:
  - address: 127.0.0.1:8080   # clients
routes:
  - name: all
    upstream: fleet # everything

upstreams:
  fleet: # the big ones
    kind: ollama
    servers:
      # bought in May
      - { name: a100-1, url: \"http://10.0.0.1:11434\", weight: 2 } # fast
      - name: t4-1
        url: http://10.0.0.2:11434
    queue:
      timeout: 30s

# the end
";

fn written(text: &str) -> Json {
    config::written(text).expect("YAML")
}

fn set(place: Place, value: Json) -> Edit {
    Edit { place, value: Some(value) }
}

fn server(name: &str) -> Place {
    Place::of_keys(["upstreams", "fleet", "servers"]).item(name)
}

fn saved(edits: impl IntoIterator<Item = Edit>) -> String {
    save(FILE, &edits.into_iter().collect()).expect("saved")
}

/// The lines of the one that are not in the other, and the other way round.
fn changed(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let only = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|known| known == *line)).map(str::to_owned).collect()
    };
    (only(before, after), only(after, before))
}

#[test]
fn places_are_printed_as_people_write_them() {
    assert_eq!(server("a100-1").key("weight").to_string(), "upstreams.fleet.servers[a100-1].weight");
    assert_eq!(Place::of_keys(["upstreams", "a.b"]).to_string(), "upstreams[\"a.b\"]");
}

#[test]
fn a_later_edit_replaces_those_below_it() {
    let whole = Place::of_keys(["upstreams", "fleet", "queue"]);
    let overlay: Overlay = [
        set(whole.key("timeout"), json!("5s")),
        set(whole.key("max_pending"), json!(7)),
        set(whole.clone(), json!({ "timeout": "9s" })),
    ]
    .into_iter()
    .collect();
    assert_eq!(overlay.edits().len(), 1);
}

#[test]
fn each_kind_of_edit_changes_its_lines_and_no_others() {
    let queue = Place::of_keys(["upstreams", "fleet", "queue"]);
    for (edit, gone, new) in [
        (
            set(server("a100-1").key("weight"), json!(3)),
            vec!["      - { name: a100-1, url: \"http://10.0.0.1:11434\", weight: 2 } # fast"],
            vec!["      - { name: a100-1, url: \"http://10.0.0.1:11434\", weight: 3 } # fast"],
        ),
        (
            set(server("a100-1").key("max_in_flight"), json!(3)),
            vec!["      - { name: a100-1, url: \"http://10.0.0.1:11434\", weight: 2 } # fast"],
            vec!["      - { name: a100-1, url: \"http://10.0.0.1:11434\", weight: 2, max_in_flight: 3 } # fast"],
        ),
        (set(server("t4-1").key("max_in_flight"), json!(3)), vec![], vec!["        max_in_flight: 3"]),
        (
            set(server("new"), json!({ "name": "new", "url": "http://[::1]:1" })),
            vec![],
            vec!["      - { name: new, url: \"http://[::1]:1\" }"],
        ),
        (
            Edit { place: server("a100-1"), value: None },
            vec!["      - { name: a100-1, url: \"http://10.0.0.1:11434\", weight: 2 } # fast"],
            vec![],
        ),
        (
            Edit { place: server("t4-1"), value: None },
            vec!["      - name: t4-1", "        url: http://10.0.0.2:11434"],
            vec![],
        ),
        (set(queue.key("timeout"), json!("5s")), vec!["      timeout: 30s"], vec!["      timeout: 5s"]),
        (set(queue.key("max_pending"), json!(9)), vec![], vec!["      max_pending: 9"]),
        (Edit { place: queue.clone(), value: None }, vec!["    queue:", "      timeout: 30s"], vec![]),
        (
            Edit { place: queue.key("timeout"), value: None },
            vec!["    queue:", "      timeout: 30s"],
            vec!["    queue: {}"],
        ),
        (set(Place::of_keys(["server", "drain"]), json!("10s")), vec![], vec!["server: { drain: 10s }"]),
        (
            set(Place::of_keys(["version"]), json!(1.5)),
            vec!["version: 1 # of the format"],
            vec!["version: 1.5 # of the format"],
        ),
    ] {
        let place = edit.place.to_string();
        assert_eq!(
            changed(FILE, &saved([edit])),
            (gone.iter().map(ToString::to_string).collect(), new.iter().map(ToString::to_string).collect()),
            "{place}"
        );
    }
}

#[test]
fn lists_that_become_empty_are_still_lists() {
    let text = saved([Edit { place: server("a100-1"), value: None }, Edit { place: server("t4-1"), value: None }]);
    assert_eq!(written(&text)["upstreams"]["fleet"]["servers"], json!([]), "{text}");
}

#[test]
fn an_edit_inside_an_alias_is_refused() {
    let text = "base: &base { weight: 1 }\nlist:\n  - { name: a, <<: *base }\n  - { name: b, <<: *base }\n";
    let place = Place::of_keys(["list"]).item("a").key("weight");
    let overlay: Overlay = [set(place.clone(), json!(2))].into_iter().collect();
    assert_eq!(save(text, &overlay), Err(NotSaved::Entangled(place.to_string())));
}

#[test]
fn windows_line_breaks_stay() {
    let text = FILE.replace('\n', "\r\n");
    let overlay: Overlay = [set(server("t4-1").key("weight"), json!(3))].into_iter().collect();
    let text = save(&text, &overlay).expect("saved");
    assert!(text.contains("        weight: 3\r\n"), "{text}");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
}

#[test]
fn an_edit_without_a_place_has_no_effect() {
    let lost = server("gone").key("weight");
    assert_eq!(saved([set(lost, json!(2)), Edit { place: server("gone"), value: None }]), FILE);
}

#[test]
fn secrets_are_masked_and_a_mask_sent_back_changes_nothing() {
    let before = json!({
        "headers": { "set": { "Authorization": "Bearer s3cret", "X-Team": "a" } },
        "url": "http://user:s3cret@h/x",
        "from_variable": { "authorization": "Bearer ${TOKEN}" },
        "list": [{ "name": "a", "cookie": "s3cret" }, { "name": "b" }],
        "notifications": [{ "url": "https://hooks.test/s3cret", "events": ["server_down"] }],
        "recovery": { "webhook": "https://hooks.test/s3cret" },
    });
    let shown = masked(&before);
    assert!(!shown.to_string().contains("s3cret"), "{shown}");
    assert!(shown.to_string().contains("${TOKEN}"));
    assert_eq!(difference(&before, &shown), []);
    assert!(has_mask(&shown) && !has_mask(&before));
    let mut moved = shown.clone();
    moved["list"].as_array_mut().expect("a list").reverse();
    let edits = difference(&before, &moved);
    assert_eq!(edits[0].value, Some(json!([{ "name": "b" }, { "name": "a", "cookie": "s3cret" }])));
}

fn apply(text: &str, edits: &[Edit]) -> Json {
    config::written_with(text, &edits.iter().cloned().collect()).expect("YAML")
}

/// Values as a configuration has them: mappings, lists with and without names, words, numbers.
fn value() -> impl Strategy<Value = Json> {
    let text = prop_oneof![
        "[a-z]{1,5}",
        Just("30s".to_owned()),
        Just("a: b # c".to_owned()),
        Just("x, y".to_owned()),
        Just("it's".to_owned()),
        Just("\"q\"".to_owned()),
        Just("0644".to_owned()),
        Just("- a".to_owned()),
        Just("é…".to_owned()),
        Just(String::new()),
        Just("{x}".to_owned()),
        Just("true".to_owned()),
        Just("1e5".to_owned()),
    ];
    let leaf =
        prop_oneof![text.prop_map(Json::from), any::<u16>().prop_map(Json::from), any::<bool>().prop_map(Json::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map("[a-z]{1,3}", inner.clone(), 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
            proptest::collection::btree_map("[a-e]", inner, 0..4).prop_map(|items| {
                items.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
            }),
        ]
    })
}

/// A mapping that is never empty, as a configuration never is.
fn mapping() -> impl Strategy<Value = Json> {
    proptest::collection::btree_map("[a-z]{1,3}", value(), 0..5).prop_map(|map| {
        let version = std::iter::once(("version".to_owned(), json!(1)));
        Json::Object(version.chain(map).collect())
    })
}

/// The value in lines, with a comment behind each scalar.
fn in_lines(value: &Json, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let scalar = |value: &Json| format!(" {value} # kept\n");
    let is_leaf = |value: &Json| match value {
        Json::Array(items) => items.is_empty(),
        Json::Object(entries) => entries.is_empty(),
        _ => true,
    };
    match value {
        Json::Object(entries) => entries
            .iter()
            .map(|(key, value)| {
                let key = Json::from(key.as_str());
                if is_leaf(value) {
                    format!("{pad}{key}:{}", scalar(value))
                } else {
                    format!("{pad}{key}:\n{}", in_lines(value, indent + 2))
                }
            })
            .collect(),
        Json::Array(items) => items
            .iter()
            .map(|item| match item {
                Json::Object(entries) if !entries.is_empty() => {
                    let lines = in_lines(item, indent + 2);
                    format!("{pad}- {}", &lines[indent + 2..])
                }
                item if is_leaf(item) => format!("{pad}-{}", scalar(item)),
                item => format!("{pad}-\n{}", in_lines(item, indent + 2)),
            })
            .collect(),
        other => format!("{pad}{other}\n"),
    }
}

proptest! {
    /// The edits lead from the one to the other, over the tree.
    #[test]
    fn a_difference_leads_there(before in mapping(), after in mapping()) {
        prop_assert_eq!(apply(&before.to_string(), &difference(&before, &after)), after);
    }

    /// The same in the text, whether it has lines or brackets.
    #[test]
    fn a_saved_text_says_what_was_wanted(before in mapping(), after in mapping(), lines in any::<bool>()) {
        let text = if lines { in_lines(&before, 0) } else { before.to_string() };
        prop_assert_eq!(&written(&text), &before);
        let overlay: Overlay = difference(&before, &after).into_iter().collect();
        let saved = save(&text, &overlay);
        prop_assert!(saved.is_ok(), "{saved:?} in\n{text}");
        prop_assert_eq!(written(&saved.unwrap_or_default()), after);
    }
}
