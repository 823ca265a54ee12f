//! Tables for people: columns as wide as they need to be, never wider together than the terminal.

use std::cmp::Ordering;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::output::Look;
use super::words;

/// Between two columns.
pub const GAP: usize = 2;
/// No column is cut down below this width: the first while that is enough, else the second.
const NARROWEST: [usize; 2] = [8, 1];

/// What a cell says beyond its words, by colour where there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Something is wrong.
    Bad,
    /// Of less interest.
    Faint,
}

impl Tone {
    /// What a state that an answer names means.
    pub fn of(state: &str) -> Self {
        match state {
            "healthy" | "active" | "closed" | "loaded" | "up" => Self::Good,
            "degraded" | "draining" | "maintenance" | "half_open" | "loading" | "unknown" | "paused" => Self::Warning,
            "unhealthy" | "down" | "open" | "failed" => Self::Bad,
            _ => Self::Plain,
        }
    }

    /// The text in its colour.
    pub fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Faint => "2",
            Self::Plain => "",
        };
        if colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One value: its words, and what it is sorted by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// What is shown, safe for a terminal.
    pub text: String,
    /// Its colour.
    pub tone: Tone,
    /// What it is sorted by; a cell without a number is sorted by its text.
    pub number: Option<f64>,
}

impl Cell {
    /// Words of others.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self { text: words::plain(text.as_ref()), ..Self::default() }
    }

    /// Words of others, or `-` where there are none.
    pub fn maybe(text: Option<impl AsRef<str>>) -> Self {
        text.filter(|text| !text.as_ref().is_empty()).map_or_else(Self::none, Self::text)
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { text: "-".to_owned(), tone: Tone::Faint, number: None }
    }

    /// A state, in the colour of what it means.
    pub fn state(state: &str) -> Self {
        Self { tone: Tone::of(state), ..Self::text(state) }
    }

    /// Something that is measured, in the words that are given.
    pub fn measured(number: f64, text: String) -> Self {
        Self { text, tone: Tone::Plain, number: Some(number) }
    }

    /// A number of things.
    pub fn count(number: u64) -> Self {
        Self::measured(approximately(number), number.to_string())
    }

    /// A number of bytes.
    pub fn size(bytes: u64) -> Self {
        Self::measured(approximately(bytes), words::size(bytes))
    }

    /// Milliseconds.
    pub fn milliseconds(time: Option<f64>) -> Self {
        time.map_or_else(Self::none, |time| Self::measured(time, words::span(words::milliseconds(time))))
    }

    /// The same in another colour.
    pub fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// Good enough to sort by.
fn approximately(number: u64) -> f64 {
    number as f64
}

/// Rows below headings.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// One without rows.
    pub fn new(heads: impl Into<Vec<&'static str>>) -> Self {
        Self { heads: heads.into(), rows: Vec::new() }
    }

    /// Adds a row: one cell for each heading.
    pub fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// Its headings.
    pub fn heads(&self) -> &[&'static str] {
        &self.heads
    }

    /// Its rows.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// Only rows in which a cell has these words, whatever their letter case.
    pub fn keep(&mut self, words: &str) {
        let words = words.to_lowercase();
        self.rows.retain(|row| row.iter().any(|cell| cell.text.to_lowercase().contains(&words)));
    }

    /// Rows by a column, numbers by their size; what is equal stays in its order.
    pub fn sort(&mut self, column: usize, descending: bool) {
        self.rows.sort_by(|one, other| {
            let (Some(one), Some(other)) = (one.get(column), other.get(column)) else { return Ordering::Equal };
            let order = match (one.number, other.number) {
                (Some(one), Some(other)) => one.total_cmp(&other),
                (None, None) => one.text.cmp(&other.text),
                // What is not known comes behind what is.
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
            };
            if descending { order.reverse() } else { order }
        });
    }

    /// Whether a column holds numbers, which stand at its right.
    pub fn is_right(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(column)).filter(|cell| cell.tone != Tone::Faint);
        cells.clone().next().is_some() && cells.all(|cell| cell.number.is_some())
    }

    /// The table as text; `empty` is what is said instead when it has no rows.
    pub fn render(&self, look: &Look, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let widths = self.widths(look.width);
        let mut text = String::new();
        let heads: Vec<Cell> = self.heads.iter().map(|head| Cell::text(head).toned(Tone::Faint)).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            let mut owed = 0;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let shown = cut(&cell.text, *width);
                let space = width - shown.width().min(*width);
                let (before, after) = if self.is_right(column) { (space, 0) } else { (0, space) };
                line.push_str(&" ".repeat(owed + before));
                line.push_str(&cell.tone.paint(&shown, look.colour));
                owed = after + GAP;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// How wide each column is, so that all of them fit; the widest gives way first.
    pub fn widths(&self, limit: usize) -> Vec<usize> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width());
            cells.chain([self.heads[column].width()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.heads.len()).map(widest).collect();
        let gaps = GAP * self.heads.len().saturating_sub(1);
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(limit);
        for narrowest in NARROWEST {
            while over > 0 {
                let Some(widest) = widths.iter_mut().max().filter(|width| **width > narrowest) else { break };
                *widest -= 1;
                over -= 1;
            }
        }
        widths
    }
}

/// What is known of one thing: a word and a value a line.
pub fn facts(rows: &[(&str, Cell)], look: &Look) -> String {
    let width = rows.iter().map(|(word, _)| word.width()).max().unwrap_or(0);
    let room = look.width.saturating_sub(width + GAP);
    let line = |(word, cell): &(&str, Cell)| {
        let word = Tone::Faint.paint(&format!("{word:width$}"), look.colour);
        format!("{word}  {}\n", cell.tone.paint(&cut(&cell.text, room), look.colour))
    };
    rows.iter().map(line).collect()
}

/// A text of at most this width; where something was left out it ends in `…`.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut shown, mut used) = (String::new(), 0);
    for c in text.chars() {
        let more = c.width().unwrap_or(0);
        if used + more + 1 > width {
            break;
        }
        shown.push(c);
        used += more;
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(width: usize, colour: bool) -> Look {
        Look { colour, width, now: time::OffsetDateTime::UNIX_EPOCH }
    }

    fn table() -> Table {
        let mut table = Table::new(["NAME", "STATE", "COUNT"]);
        table.row([Cell::text("a100-1"), Cell::state("healthy"), Cell::count(7)]);
        table.row([Cell::text("a-server-with-a-long-name"), Cell::state("down"), Cell::count(1234)]);
        table
    }

    #[test]
    fn columns_stand_below_each_other_and_numbers_at_the_right() {
        let told = table().render(&look(usize::MAX, false), "");
        let lines = [
            "NAME                       STATE    COUNT",
            "a100-1                     healthy      7",
            "a-server-with-a-long-name  down      1234",
        ];
        assert_eq!(told, lines.map(|line| format!("{line}\n")).concat());
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column() {
        let told = table().render(&look(30, false), "");
        assert!(told.lines().all(|line| line.width() <= 30), "{told}");
        assert!(told.contains("a-server-with…  down      1234"), "{told}");
        // However narrow it is, nothing panics and every row is there.
        assert_eq!(table().render(&look(1, false), "").lines().count(), 3);
    }

    #[test]
    fn colours_change_no_width_and_are_left_out_where_there_are_none() {
        let told = table().render(&look(usize::MAX, true), "");
        assert!(told.contains("\x1b[32mhealthy\x1b[0m      7"), "{told:?}");
        assert!(told.contains("\x1b[31mdown\x1b[0m      1234"), "{told:?}");
    }

    #[test]
    fn an_empty_list_says_so() {
        assert_eq!(Table::new(["A"]).render(&look(80, false), "no bans"), "no bans\n");
    }

    #[test]
    fn wide_letters_count_double() {
        assert_eq!(cut("模型模型", 5), "模型…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 0), "");
    }
}
