//! The edits that lead from one configuration to another.

use serde_json::{Map, Value as Json};

use super::{Edit, Place, is_masked, name_of, names_of};

/// What has to be changed so that `before` becomes `after`, both as they are typed. A value of `after` that is masked is
/// the one of `before` at the same place: in a list, of the member of that name, else of that number.
#[must_use]
pub fn difference(before: &Json, after: &Json) -> Vec<Edit> {
    let mut edits = Vec::new();
    compare(before, &restored(before, after), &Place::default(), &mut edits);
    edits
}

fn compare(before: &Json, after: &Json, place: &Place, edits: &mut Vec<Edit>) {
    match (before, after) {
        (Json::Object(before), Json::Object(after)) => mappings(before, after, place, edits),
        (Json::Array(before), Json::Array(after)) => lists(before, after, place, edits),
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
        edits.push(Edit { place: place.clone(), value: Some(after.into()) });
        return;
    };
    // Members that stay must stay in their order, with new ones behind them: a list's order can mean something.
    let kept: Vec<&str> = old.iter().copied().filter(|name| new.contains(name)).collect();
    if new.get(..kept.len()) != Some(&kept[..]) {
        edits.push(Edit { place: place.clone(), value: Some(after.into()) });
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

/// The new value with what is masked in it as it was.
fn restored(before: &Json, after: &Json) -> Json {
    match (before, after) {
        (_, Json::String(text)) if is_masked(text) => before.clone(),
        (Json::Object(before), Json::Object(after)) => {
            let restored = after.iter().map(|(key, value)| {
                let known = before.get(key);
                (key.clone(), known.map_or_else(|| value.clone(), |known| restored(known, value)))
            });
            Json::Object(restored.collect())
        }
        (Json::Array(before), Json::Array(after)) => {
            let of_name = |item: &Json| {
                let name = name_of(item)?;
                before.iter().find(|known| name_of(known) == Some(name))
            };
            let restored = after.iter().enumerate().map(|(index, item)| {
                let known = of_name(item).or_else(|| before.get(index));
                known.map_or_else(|| item.clone(), |known| restored(known, item))
            });
            restored.collect()
        }
        _ => after.clone(),
    }
}
