//! What is looked at, and what keys do about it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::panes::Pane;
use crate::cli::overview::Overview;
use crate::cli::table::Table;
use crate::cli::words;

/// Lines that PageUp and PageDown go.
const PAGE: usize = 10;
/// A filter is no longer than that.
const LONGEST_FILTER: usize = 60;

/// What the keys mean now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Orders.
    Looking,
    /// Letters of the filter.
    Filtering,
    /// The help is shown; any key ends it.
    Help,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    On,
    /// The user wants to leave.
    Quit,
}

/// By which column a pane is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// The column.
    pub column: usize,
    /// The largest first.
    pub descending: bool,
}

/// What is looked at.
pub struct App {
    /// The last overview.
    pub seen: Overview,
    /// Why there is no newer one.
    pub error: Option<String>,
    /// The pane.
    pub pane: Pane,
    /// How each pane is sorted; as it comes by default.
    pub sorts: [Option<Sort>; Pane::ALL.len()],
    /// Only rows with these words.
    pub filter: String,
    /// What the keys mean now.
    pub mode: Mode,
    /// Rows that are scrolled away.
    pub scrolled: usize,
    /// Nothing new is shown.
    pub frozen: bool,
}

impl App {
    /// Begins with a pane.
    pub fn new(pane: Pane) -> Self {
        Self {
            seen: Overview::default(),
            error: None,
            pane,
            sorts: [None; Pane::ALL.len()],
            filter: String::new(),
            mode: Mode::Looking,
            scrolled: 0,
            frozen: false,
        }
    }

    /// Takes a new overview, or why there is none; the last one stays then.
    pub fn take(&mut self, news: Result<Overview, String>) {
        match news {
            Err(error) => self.error = Some(words::plain(&error)),
            Ok(overview) => {
                self.error = None;
                if !self.frozen {
                    self.seen = overview;
                }
            }
        }
    }

    /// The table of the pane, filtered and sorted.
    pub fn table(&self) -> Table {
        let mut table = self.pane.table(&self.seen);
        if !self.filter.is_empty() {
            table.keep(&self.filter);
        }
        if let Some(sort) = self.sort() {
            table.sort(sort.column, sort.descending);
        }
        table
    }

    /// How the pane is sorted.
    pub fn sort(&self) -> Option<Sort> {
        self.sorts[self.pane.place()]
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Step {
        if key.kind == KeyEventKind::Release {
            return Step::On;
        }
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            let leaves = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            return if leaves { Step::Quit } else { Step::On };
        }
        match self.mode {
            Mode::Looking => return self.order(key.code),
            Mode::Filtering => self.letter(key.code),
            Mode::Help if key.code == KeyCode::Char('q') => return Step::Quit,
            Mode::Help => self.mode = Mode::Looking,
        }
        Step::On
    }

    fn order(&mut self, code: KeyCode) -> Step {
        match code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filtering,
            KeyCode::Char(' ') => self.frozen = !self.frozen,
            KeyCode::Char('r') => {
                if let Some(sort) = &mut self.sorts[self.pane.place()] {
                    sort.descending = !sort.descending;
                }
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let place = digit.to_digit(10).and_then(|digit| usize::try_from(digit).ok()).unwrap_or(1) - 1;
                if let Some(pane) = Pane::ALL.get(place) {
                    self.show(*pane);
                }
            }
            KeyCode::Tab => self.show(self.pane.further(1)),
            KeyCode::BackTab => self.show(self.pane.further(Pane::ALL.len() - 1)),
            KeyCode::Right => self.sort_by_next(1),
            KeyCode::Left => self.sort_by_next(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scroll(PAGE),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(PAGE),
            KeyCode::Home => self.scrolled = 0,
            KeyCode::End => self.scroll(usize::MAX),
            KeyCode::Esc => {
                self.filter.clear();
                self.sorts[self.pane.place()] = None;
                self.scrolled = 0;
            }
            _ => {}
        }
        Step::On
    }

    fn letter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Looking,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Looking;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.chars().count() < LONGEST_FILTER => self.filter.push(letter),
            _ => {}
        }
        self.scrolled = 0;
    }

    fn show(&mut self, pane: Pane) {
        self.pane = pane;
        self.scrolled = 0;
    }

    fn scroll(&mut self, lines: usize) {
        let last = self.table().rows().len().saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add(lines).min(last);
    }

    /// From unsorted to the first column on the right, the last on the left, and round again.
    fn sort_by_next(&mut self, step: isize) {
        let columns = self.pane.table(&self.seen).heads().len();
        let place = self.sort().map_or(0, |sort| sort.column + 1);
        let next = place.checked_add_signed(step).unwrap_or(columns);
        let descending = self.sort().is_some_and(|sort| sort.descending);
        self.sorts[self.pane.place()] =
            next.checked_sub(1).filter(|column| *column < columns).map(|column| Sort { column, descending });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn app() -> App {
        let servers = ["b", "a", "c"].map(|id| json!({ "id": id, "inFlight": id.len() }));
        let told = json!({ "at": "2026-02-03T04:05:06Z", "servers": servers });
        let mut app = App::new(Pane::Servers);
        app.take(Ok(serde_json::from_value(told).unwrap()));
        app
    }

    fn press(app: &mut App, codes: &[KeyCode]) -> Step {
        codes.iter().map(|code| app.key(KeyEvent::new(*code, KeyModifiers::NONE))).last().unwrap_or(Step::On)
    }

    fn names(app: &App) -> Vec<String> {
        app.table().rows().iter().map(|row| row[0].text.clone()).collect()
    }

    #[test]
    fn arrows_sort_by_each_column_and_back_to_none() {
        let mut app = app();
        assert_eq!(names(&app), ["b", "a", "c"]);
        press(&mut app, &[KeyCode::Right]);
        assert_eq!(names(&app), ["a", "b", "c"]);
        press(&mut app, &[KeyCode::Char('r')]);
        assert_eq!(names(&app), ["c", "b", "a"]);
        press(&mut app, &[KeyCode::Left]);
        assert_eq!((app.sort(), names(&app)), (None, vec!["b".into(), "a".into(), "c".into()]));
        press(&mut app, &[KeyCode::Left]);
        assert_eq!(app.sort(), Some(Sort { column: 8, descending: false }));
        press(&mut app, &[KeyCode::Right]);
        assert_eq!(app.sort(), None);
    }

    #[test]
    fn tabs_and_digits_change_the_pane_and_keep_its_order() {
        let mut app = app();
        press(&mut app, &[KeyCode::Right, KeyCode::BackTab]);
        assert_eq!((app.pane, app.sort()), (Pane::Decisions, None));
        press(&mut app, &[KeyCode::Tab]);
        assert_eq!((app.pane, app.sort().map(|sort| sort.column)), (Pane::Servers, Some(0)));
        press(&mut app, &[KeyCode::Char('4')]);
        assert_eq!(app.pane, Pane::Queues);
        press(&mut app, &[KeyCode::Char('9')]);
        assert_eq!(app.pane, Pane::Queues);
    }

    #[test]
    fn a_filter_takes_letters_that_are_orders_elsewhere() {
        let mut app = app();
        assert_eq!(press(&mut app, &[KeyCode::Char('/'), KeyCode::Char('q')]), Step::On);
        assert_eq!((app.filter.as_str(), names(&app).len()), ("q", 0));
        press(&mut app, &[KeyCode::Backspace, KeyCode::Char('A'), KeyCode::Enter]);
        // `a` stands in no other cell.
        assert_eq!((app.mode, names(&app)), (Mode::Looking, vec!["a".to_owned()]));
        press(&mut app, &[KeyCode::Esc]);
        assert_eq!(names(&app).len(), 3);
    }

    #[test]
    fn nothing_moves_while_it_is_frozen_and_errors_leave_the_last_picture() {
        let mut app = app();
        app.take(Err("gone\u{1b}[2J".to_owned()));
        assert_eq!((names(&app).len(), app.error.as_deref()), (3, Some("gone\\u{1b}[2J")));
        press(&mut app, &[KeyCode::Char(' ')]);
        app.take(Ok(Overview::default()));
        assert_eq!((names(&app).len(), &app.error), (3, &None));
        press(&mut app, &[KeyCode::Char(' ')]);
        app.take(Ok(Overview::default()));
        assert_eq!(names(&app).len(), 0);
    }

    #[test]
    fn scrolling_ends_at_the_last_row() {
        let mut app = app();
        press(&mut app, &[KeyCode::PageDown]);
        assert_eq!(app.scrolled, 2);
        press(&mut app, &[KeyCode::Up, KeyCode::Home]);
        assert_eq!(app.scrolled, 0);
    }

    #[test]
    fn q_and_control_c_leave() {
        let mut app = app();
        assert_eq!(press(&mut app, &[KeyCode::Char('?'), KeyCode::Char('x'), KeyCode::Char('q')]), Step::Quit);
        app.mode = Mode::Filtering;
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Step::Quit);
    }
}
