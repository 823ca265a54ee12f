//! Puts what is looked at on a screen of any size.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget};
use unicode_width::UnicodeWidthStr;

use super::app::{App, Mode};
use super::panes::Pane;
use crate::cli::overview::Percentiles;
use crate::cli::status::{config_tone, servers_tone};
use crate::cli::table::{GAP, Tone, cut};
use crate::cli::words::{self, plain};

/// Lines above the pane's table.
const HEAD: u16 = 5;

const HELP: [(&str, &str); 11] = [
    ("q, Ctrl-C", "leave"),
    ("Tab, Shift-Tab, 1-7", "another pane"),
    ("left, right", "sort by another column"),
    ("r", "turn the order round"),
    ("up, down, PgUp, PgDn, Home, End", "scroll"),
    ("/", "only rows with these words; Enter keeps it, Esc drops it"),
    ("Esc", "no filter, no order"),
    ("space", "stop the picture; again: go on"),
    ("?", "this help"),
    ("", ""),
    ("any other key", "back"),
];

/// One screen as text, without colours; no line ends in spaces.
pub fn as_text(app: &App, width: u16, height: u16) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    screen(area, &mut buffer, app, false);
    text_of(&buffer)
}

fn text_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut line = String::new();
        let mut covered = 0;
        for x in buffer.area.left()..buffer.area.right() {
            let symbol = buffer[(x, y)].symbol();
            // A wide letter covers the next cell, which has nothing of its own.
            if covered == 0 {
                line.push_str(symbol);
                covered = symbol.width().max(1);
            }
            covered -= 1;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Draws all of it.
pub fn screen(area: Rect, buffer: &mut Buffer, app: &App, colour: bool) {
    let parts = Layout::vertical([Constraint::Length(HEAD), Constraint::Fill(1), Constraint::Length(1)]);
    let [head, body, foot] = parts.areas(area);
    Paragraph::new(heading(app, colour)).render(head, buffer);
    let lines = if app.mode == Mode::Help { help(colour) } else { rows(app, body, colour) };
    Paragraph::new(lines).render(body, buffer);
    Paragraph::new(footer(app, colour)).render(foot, buffer);
}

fn style(tone: Tone, colour: bool) -> Style {
    let style = Style::new();
    match tone {
        Tone::Plain => style,
        Tone::Faint => style.add_modifier(Modifier::DIM),
        _ if !colour => style,
        Tone::Good => style.fg(Color::Green),
        Tone::Warning => style.fg(Color::Yellow),
        Tone::Bad => style.fg(Color::Red),
    }
}

fn span(text: impl Into<String>, tone: Tone, colour: bool) -> Span<'static> {
    Span::styled(text.into(), style(tone, colour))
}

fn heading(app: &App, colour: bool) -> Vec<Line<'static>> {
    let seen = &app.seen;
    let faint = |text: &str| span(text, Tone::Faint, colour);
    let uptime = words::span(Duration::from_secs(seen.uptime_seconds));
    let status = plain(&seen.status);
    let mut lines = vec![
        Line::from(vec![
            faint("arriero     "),
            span(status.clone(), Tone::of(&status), colour),
            span(format!(", version {}, up {uptime}", plain(&seen.version)), Tone::Plain, colour),
            faint("   config "),
            span(seen.config.line(), config_tone(seen), colour),
        ]),
        Line::from(vec![
            faint("servers     "),
            span(seen.servers_line(), servers_tone(seen), colour),
            faint("   requests "),
            span(seen.requests_line(), Tone::Plain, colour),
        ]),
        Line::from(vec![faint("rates       "), span(seen.rates_line(), Tone::Plain, colour)]),
        Line::from(vec![
            faint("first byte  "),
            span(Percentiles::line(seen.latency.ttfb_ms), Tone::Plain, colour),
            faint("   duration "),
            span(Percentiles::line(seen.latency.duration_ms), Tone::Plain, colour),
        ]),
    ];
    lines.push(Line::from(Pane::ALL.iter().flat_map(|pane| tab(app, *pane, colour)).collect::<Vec<_>>()));
    lines
}

fn tab(app: &App, pane: Pane, colour: bool) -> [Span<'static>; 2] {
    let count = match pane {
        Pane::Circuits => app.seen.circuits_count(),
        Pane::Bans => app.seen.bans_count(),
        _ => 0,
    };
    let count = if count == 0 { String::new() } else { format!(" ({count})") };
    let text = format!("{} {}{count}", pane.place() + 1, pane.name());
    let shown = if pane == app.pane {
        Span::styled(format!("[{text}]"), Style::new().add_modifier(Modifier::REVERSED))
    } else {
        span(format!(" {text} "), if count.is_empty() { Tone::Plain } else { Tone::Warning }, colour)
    };
    [shown, Span::raw(" ")]
}

fn rows(app: &App, area: Rect, colour: bool) -> Vec<Line<'static>> {
    let table = app.table();
    if table.rows().is_empty() {
        let filtered = !app.filter.is_empty() && !app.pane.table(&app.seen).rows().is_empty();
        let text = if filtered { "nothing that the filter lets through" } else { app.pane.empty() };
        return vec![span(text, Tone::Faint, colour).into()];
    }
    // The column by which it is sorted says so behind its name.
    let marked: Vec<String> =
        table.heads().iter().enumerate().map(|(column, head)| marked(app, column, head)).collect();
    let mut widths = table.widths(usize::from(area.width));
    for (width, head) in widths.iter_mut().zip(&marked) {
        *width = (*width).max(head.width().min(usize::from(area.width)));
    }
    let line = |cells: &mut dyn Iterator<Item = (String, Style)>| {
        let mut spans = Vec::new();
        for (column, (text, style)) in cells.enumerate() {
            let text = cut(&text, widths[column]);
            let space = " ".repeat(widths[column].saturating_sub(text.width()));
            let gap = " ".repeat(GAP);
            let parts = if table.is_right(column) { [space, text, gap] } else { [text, space, gap] };
            let [before, middle, after] = parts;
            spans.extend([Span::styled(before, style), Span::styled(middle, style), Span::raw(after)]);
        }
        Line::from(spans)
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = vec![line(&mut marked.iter().map(|head| (head.clone(), bold)))];
    let room = usize::from(area.height).saturating_sub(1);
    for row in table.rows().iter().skip(app.scrolled).take(room) {
        lines.push(line(&mut row.iter().map(|cell| (cell.text.clone(), style(cell.tone, colour)))));
    }
    lines
}

fn marked(app: &App, column: usize, head: &str) -> String {
    match app.sort().filter(|sort| sort.column == column) {
        None => head.to_owned(),
        Some(sort) if sort.descending => format!("{head}▼"),
        Some(_) => format!("{head}▲"),
    }
}

fn help(colour: bool) -> Vec<Line<'static>> {
    let line = |(keys, meaning): (&str, &str)| {
        Line::from(vec![span(format!("{keys:34}"), Tone::Good, colour), Span::raw(meaning.to_owned())])
    };
    HELP.into_iter().map(line).collect()
}

fn footer(app: &App, colour: bool) -> Line<'static> {
    let mut spans = Vec::new();
    if let Some(error) = &app.error {
        spans.push(span(format!("{error}  "), Tone::Bad, colour));
    }
    if app.frozen {
        spans.push(span("stopped  ", Tone::Warning, colour));
    }
    match app.mode {
        Mode::Filtering => spans.push(Span::raw(format!("/{}_", plain(&app.filter)))),
        _ if !app.filter.is_empty() => spans.push(Span::raw(format!("/{}  ", plain(&app.filter)))),
        _ => {}
    }
    if app.mode != Mode::Filtering {
        spans.push(span("q leave  Tab pane  ←→ sort  / filter  ? help", Tone::Faint, colour));
    }
    spans.into()
}
