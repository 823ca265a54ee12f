//! Which of the hosts and paths that the file names cover those of a request.
//!
//! # How
//!
//! Each pattern has a number. Patterns that cover the same request lie inside each other: `/api/chat` in
//! `/api/` in `/`, `a.b.test` in `*.b.test` in `*.test`. So each number knows the next wider one, up to
//! [`ANY`], and it is enough to find the narrowest: one hash lookup for an exact one, and one for each place
//! at which a wider one could end. Of these, only places at which some pattern does end are tried.

use fnv::FnvHashMap;

use super::host::HostPattern;
use super::pattern::PathPattern;

/// The number of a pattern of one kind.
pub type Number = u32;

/// The number of "any", the widest pattern.
pub const ANY: Number = 0;

/// Numbers of patterns of one kind, hosts or paths; `exact` covers one text, `wide` many.
#[derive(Clone, Debug, Default)]
struct Numbers {
    exact: FnvHashMap<Box<[u8]>, Number>,
    wide: FnvHashMap<Box<[u8]>, Number>,
    /// For each number but [`ANY`], at one place less: the next wider one.
    wider: Vec<Number>,
    longest_exact: usize,
    longest_wide: usize,
}

impl Numbers {
    fn number_exact(&mut self, text: &[u8]) -> Number {
        self.longest_exact = self.longest_exact.max(text.len());
        Self::number(&mut self.exact, &mut self.wider, text)
    }

    fn number_wide(&mut self, text: &[u8]) -> Number {
        self.longest_wide = self.longest_wide.max(text.len());
        Self::number(&mut self.wide, &mut self.wider, text)
    }

    fn number(map: &mut FnvHashMap<Box<[u8]>, Number>, wider: &mut Vec<Number>, text: &[u8]) -> Number {
        if let Some(number) = map.get(text) {
            return *number;
        }
        wider.push(ANY);
        let number = Number::try_from(wider.len()).unwrap_or(Number::MAX);
        map.insert(text.into(), number);
        number
    }

    fn exact(&self, text: &[u8]) -> Option<Number> {
        if text.len() > self.longest_exact { None } else { self.exact.get(text).copied() }
    }

    fn set_wider(&mut self, number: Number, wider: Number) {
        if let Some(place) = self.wider.get_mut(number as usize - 1) {
            *place = wider;
        }
    }

    /// The number and all wider ones, [`ANY`] last.
    fn chain(&self, narrowest: Number) -> impl Iterator<Item = Number> {
        std::iter::successors(Some(narrowest), |number| {
            let place = (*number as usize).checked_sub(1)?;
            self.wider.get(place).copied()
        })
    }
}

/// The hosts that the file names.
#[derive(Clone, Debug, Default)]
pub struct HostIndex {
    numbers: Numbers,
}

impl HostIndex {
    /// The number of a pattern, the same for the same pattern.
    pub fn number(&mut self, pattern: &HostPattern) -> Number {
        match pattern {
            HostPattern::Any => ANY,
            HostPattern::Exact(name) => self.numbers.number_exact(name.as_bytes()),
            HostPattern::Below(name) => self.numbers.number_wide(name.as_bytes()),
        }
    }

    /// To be called once, after the last pattern.
    pub fn finish(&mut self) {
        let numbers = &self.numbers;
        let wider: Vec<(Number, Number)> = numbers
            .exact
            .iter()
            .chain(&numbers.wide)
            .map(|(name, number)| (*number, self.narrowest_below(name)))
            .collect();
        for (number, wider) in wider {
            self.numbers.set_wider(number, wider);
        }
    }

    /// A pattern and all wider ones, up to [`ANY`].
    pub fn and_wider(&self, number: Number) -> impl Iterator<Item = Number> {
        self.numbers.chain(number)
    }

    /// The narrowest pattern that covers a host, by its canonical name.
    #[must_use]
    pub fn narrowest(&self, host: &str) -> Number {
        if self.numbers.wider.is_empty() {
            return ANY;
        }
        self.numbers.exact(host.as_bytes()).unwrap_or_else(|| self.narrowest_below(host.as_bytes()))
    }

    /// The narrowest `*.` pattern that covers a name.
    fn narrowest_below(&self, name: &[u8]) -> Number {
        let longest = self.numbers.longest_wide;
        memchr::memchr_iter(b'.', name)
            .filter(|dot| *dot > 0 && name.len() - dot - 1 <= longest)
            .find_map(|dot| self.numbers.wide.get(&name[dot + 1..]).copied())
            .unwrap_or(ANY)
    }
}

/// The paths that the file names.
#[derive(Clone, Debug, Default)]
pub struct PathIndex {
    numbers: Numbers,
    /// Bit `n` is set if some prefix has `n` slashes; the last bit stands for all larger numbers.
    depths: u64,
}

impl PathIndex {
    /// The number of a pattern, the same for the same pattern.
    pub fn number(&mut self, pattern: &PathPattern) -> Number {
        match pattern {
            PathPattern::Exact(path) => self.numbers.number_exact(path.as_bytes()),
            PathPattern::Prefix(path) => {
                self.depths |= depth_bit(memchr::memchr_iter(b'/', path.as_bytes()).count());
                self.numbers.number_wide(path.as_bytes())
            }
        }
    }

    /// To be called once, after the last pattern.
    pub fn finish(&mut self) {
        let exact = self.numbers.exact.iter().map(|(path, number)| (*number, self.narrowest_prefix(path)));
        let wide = self.numbers.wide.iter().map(|(path, number)| {
            let inside = path.len().saturating_sub(1);
            (*number, self.narrowest_prefix(&path[..inside]))
        });
        let wider: Vec<(Number, Number)> = exact.chain(wide).collect();
        for (number, wider) in wider {
            self.numbers.set_wider(number, wider);
        }
    }

    /// A pattern and all wider ones, up to [`ANY`].
    pub fn and_wider(&self, number: Number) -> impl Iterator<Item = Number> {
        self.numbers.chain(number)
    }

    /// The narrowest pattern that covers a path.
    #[must_use]
    pub fn narrowest(&self, path: &str) -> Number {
        let path = path.as_bytes();
        self.numbers.exact(path).unwrap_or_else(|| self.narrowest_prefix(path))
    }

    /// The longest prefix pattern that covers a path.
    fn narrowest_prefix(&self, path: &[u8]) -> Number {
        let reach = &path[..path.len().min(self.numbers.longest_wide)];
        let mut depth = memchr::memchr_iter(b'/', reach).count();
        for slash in memchr::memrchr_iter(b'/', reach) {
            if self.depths & depth_bit(depth) != 0
                && let Some(number) = self.numbers.wide.get(&reach[..=slash])
            {
                return *number;
            }
            depth -= 1;
        }
        ANY
    }
}

fn depth_bit(slashes: usize) -> u64 {
    1 << slashes.min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(patterns: &[&str]) -> HostIndex {
        let mut index = HostIndex::default();
        for (place, pattern) in patterns.iter().enumerate() {
            let number = index.number(&HostPattern::parse(pattern).expect("a pattern"));
            assert_eq!(number as usize, place + 1);
        }
        index.finish();
        index
    }

    fn paths(patterns: &[&str]) -> PathIndex {
        let mut index = PathIndex::default();
        for (place, pattern) in patterns.iter().enumerate() {
            assert_eq!(index.number(&PathPattern::new(pattern)) as usize, place + 1);
        }
        index.finish();
        index
    }

    #[test]
    fn a_host_is_covered_by_itself_and_by_what_stands_above_it() {
        let index = hosts(&["*.test", "a.b.test", "*.b.test", "test"]);
        let covering = |host: &str| index.and_wider(index.narrowest(host)).collect::<Vec<_>>();
        assert_eq!(covering("a.b.test"), [2, 3, 1, ANY]);
        assert_eq!(covering("c.d.b.test"), [3, 1, ANY]);
        assert_eq!(covering("b.test"), [1, ANY]);
        assert_eq!(covering("test"), [4, ANY]);
        assert_eq!(covering("other"), [ANY]);
        assert_eq!(covering(&"a.".repeat(200)), [ANY]);
        assert_eq!(covering(""), [ANY]);
    }

    #[test]
    fn a_path_is_covered_by_itself_and_by_each_prefix_at_a_slash() {
        let index = paths(&["/", "/api/chat", "/api/", "/v1/models/"]);
        let covering = |path| index.and_wider(index.narrowest(path)).collect::<Vec<_>>();
        assert_eq!(covering("/api/chat"), [2, 3, 1, ANY]);
        assert_eq!(covering("/api/chat/x"), [3, 1, ANY]);
        assert_eq!(covering("/api"), [1, ANY]);
        assert_eq!(covering("/v1/models/a/b"), [4, 1, ANY]);
        assert_eq!(covering("/v1/models"), [1, ANY]);
        assert_eq!(covering("*"), [ANY]);
        assert_eq!(covering(""), [ANY]);
    }

    #[test]
    fn very_deep_patterns_are_found_too() {
        let deep = "/a".repeat(70) + "/";
        let index = paths(&[&deep, "/a/"]);
        let covering = |path: &str| index.and_wider(index.narrowest(path)).collect::<Vec<_>>();
        assert_eq!(covering(&(deep.clone() + "x")), [1, 2, ANY]);
        assert_eq!(covering(&"/".repeat(8000)), [ANY]);
    }
}
