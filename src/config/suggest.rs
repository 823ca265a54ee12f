//! "Did you mean": the known word that is nearest to the one that was typed.

/// The hint for a word that is not known: the nearest of `known`, or the list of them.
pub(super) fn hint<'a>(typed: &str, known: impl Iterator<Item = &'a str> + Clone, what: &str) -> String {
    if let Some(near) = nearest(typed, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let mut names: Vec<String> = known.take(31).map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        return format!("there are no {what}");
    }
    if names.len() > 30 {
        names.truncate(30);
        names.push("and others".to_owned());
    }
    format!("known {what}: {}", names.join(", "))
}

/// The nearest of `known`, when it is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > 64 {
        return None;
    }
    let folded = typed.to_lowercase().replace('-', "_");
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    known
        .filter(|name| name.len() <= 64)
        .map(|name| (distance(&folded, &name.to_lowercase().replace('-', "_")), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in right.iter().enumerate() {
            let mut best = (row[j] + usize::from(from != to)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *from == right[j - 1] && left[i - 1] == *to {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_found() {
        let known = ["upstream", "name", "match", "retry", "max_in_flight"];
        assert_eq!(nearest("upstraem", known.into_iter()), Some("upstream"));
        assert_eq!(nearest("Match", known.into_iter()), Some("match"));
        assert_eq!(nearest("max-in-flight", known.into_iter()), Some("max_in_flight"));
        assert_eq!(nearest("balance", known.into_iter()), None);
        assert_eq!(nearest("x", known.into_iter()), None);
    }

    #[test]
    fn the_known_words_are_listed_when_none_is_near() {
        assert_eq!(hint("zzz", ["a", "b"].into_iter(), "keys"), "known keys: `a`, `b`");
        assert_eq!(hint("zzz", [].into_iter(), "upstreams"), "there are no upstreams");
    }
}
