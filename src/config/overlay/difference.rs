//! The edits that lead from one configuration to another.

use serde_json::{Map, Value as Json};

use super::{Edit, Place, is_masked, names_of};

/// What has to be changed so that `before` becomes `after`, both as they are typed. A value of `after` that is masked is
/// the one of `before`.
#[must_use]
pub fn difference(before: &Json, after: &Json) -> Vec<Edit> {
    let mut edits = Vec::new();
    compare(before, after, &Place::default(), &mut edits);
    edits
}

fn compare(before: &Json, after: &Json, place: &Place, edits: &mut Vec<Edit>) {
    match (before, after) {
        (Json::Object(before), Json::Object(after)) => mappings(before, after, place, edits),
        (Json::Array(before), Json::Array(after)) => lists(before, after, place, edits),
        (_, Json::String(text)) if is_masked(text) => {}
        _ if before == after => {}
        _ => edits.push(Edit { place: place.clone(), value: Some(after.clone()) }),
    }
}

fn mappings(before: &Map<String, Json>, after: &Map<String, Json>, place: &Place, edits: &mut Vec<Edit>) {
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        edits.push(Edit { place: place.key(key), value: None });
    }
    for (key, value) in after {
        match before.get(key) {
            Some(known) => compare(known, value, &place.key(key), edits),
            None => edits.push(Edit { place: place.key(key), value: Some(value.clone()) }),
        }
    }
}

fn lists(before: &[Json], after: &[Json], place: &Place, edits: &mut Vec<Edit>) {
    if before == after {
        return;
    }
    let (Some(old), Some(new)) = (names_of(before), names_of(after)) else {
        edits.push(Edit { place: place.clone(), value: Some(unmasked(before, after)) });
        return;
    };
    // Members that stay must stay in their order, with new ones behind them: a list's order can mean something.
    let kept: Vec<&str> = old.iter().copied().filter(|name| new.contains(name)).collect();
    if new.get(..kept.len()) != Some(&kept[..]) {
        edits.push(Edit { place: place.clone(), value: Some(unmasked(before, after)) });
        return;
    }
    for name in old.iter().filter(|name| !new.contains(name)) {
        edits.push(Edit { place: place.item(name), value: None });
    }
    for (name, value) in new.iter().zip(after) {
        match old.iter().position(|known| known == name) {
            Some(index) => compare(&before[index], value, &place.item(name), edits),
            None => edits.push(Edit { place: place.item(name), value: Some(value.clone()) }),
        }
    }
}

/// The new list with masked values as they were at the same place before.
fn unmasked(before: &[Json], after: &[Json]) -> Json {
    let same_name = |item: &Json| {
        before.iter().find(|known| super::name_of(known).is_some_and(|name| Some(name) == super::name_of(item)))
    };
    let restored = after.iter().enumerate().map(|(index, item)| {
        same_name(item).or_else(|| before.get(index)).map_or_else(|| item.clone(), |known| restore(known, item))
    });
    restored.collect()
}

fn restore(before: &Json, after: &Json) -> Json {
    match (before, after) {
        (_, Json::String(text)) if is_masked(text) => before.clone(),
        (Json::Object(before), Json::Object(after)) => {
            let restored = after.iter().map(|(key, value)| {
                let known = before.get(key);
                (key.clone(), known.map_or_else(|| value.clone(), |known| restore(known, value)))
            });
            Json::Object(restored.collect())
        }
        (Json::Array(before), Json::Array(after)) => unmasked(before, after),
        _ => after.clone(),
    }
}
