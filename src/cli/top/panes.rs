//! The panes: a table each, made of an overview.

use clap::ValueEnum;
use time::OffsetDateTime;

use crate::cli::overview::Overview;
use crate::cli::servers::in_flight;
use crate::cli::table::{Cell, Table, Tone};
use crate::cli::words::{self, distance};

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pane {
    /// The servers.
    Servers,
    /// The models.
    Models,
    /// Requests that run.
    Requests,
    /// Who waits.
    Queues,
    /// Circuits that are not closed.
    Circuits,
    /// Bans.
    Bans,
    /// Why servers were chosen.
    Decisions,
}

impl Pane {
    /// All of them, as they stand in the line of tabs.
    pub const ALL: [Self; 7] =
        [Self::Servers, Self::Models, Self::Requests, Self::Queues, Self::Circuits, Self::Bans, Self::Decisions];

    /// Its place in the line of tabs.
    pub fn place(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0)
    }

    /// The one so many places further on, round the ends.
    pub fn further(self, steps: usize) -> Self {
        Self::ALL[(self.place() + steps) % Self::ALL.len()]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Models => "models",
            Self::Requests => "requests",
            Self::Queues => "queues",
            Self::Circuits => "circuits",
            Self::Bans => "bans",
            Self::Decisions => "decisions",
        }
    }

    /// What is said when there is nothing in it.
    pub fn empty(self) -> &'static str {
        match self {
            Self::Servers => "no servers",
            Self::Models => "no models",
            Self::Requests => "no requests run",
            Self::Queues => "nobody waits",
            Self::Circuits => "all circuits are closed",
            Self::Bans => "no bans",
            Self::Decisions => "no server had to be chosen yet",
        }
    }

    /// What is in it.
    pub fn table(self, seen: &Overview) -> Table {
        let now = words::moment(&seen.at).unwrap_or_else(words::now);
        match self {
            Self::Servers => servers(seen),
            Self::Models => models(seen),
            Self::Requests => requests(seen),
            Self::Queues => queues(seen),
            Self::Circuits => circuits(seen, now),
            Self::Bans => bans(seen, now),
            Self::Decisions => decisions(seen, now),
        }
    }
}

/// A moment, sorted by how far away it is.
fn moment(at: Option<&String>, now: OffsetDateTime) -> Cell {
    let Some(at) = at else { return Cell::none() };
    let number = words::moment(at).map(|at| (at - now).as_seconds_f64());
    Cell { number, ..Cell::text(distance(at, now)) }
}

fn servers(seen: &Overview) -> Table {
    let mut table =
        Table::new(["SERVER", "UPSTREAM", "HEALTH", "OPERATION", "CIRCUIT", "RUN", "RESPONSE", "VRAM", "LOADED"]);
    for server in &seen.servers {
        let loaded: Vec<&str> = server.loaded.iter().map(|model| model.name.as_str()).collect();
        table.row([
            Cell::text(&server.id),
            Cell::text(&server.upstream),
            Cell::state(&server.health),
            Cell::state(&server.operation),
            Cell::state(&server.circuit),
            in_flight(server.in_flight, server.max_in_flight),
            Cell::milliseconds(server.last_response_ms),
            vram(server.vram_used, server.vram_total),
            Cell::maybe(Some(loaded.join(", "))),
        ]);
    }
    table
}

fn vram(used: Option<u64>, total: Option<u64>) -> Cell {
    match (used.unwrap_or_default(), total) {
        (0, None) => Cell::none(),
        (used, None) => Cell::size(used),
        (used, Some(total)) => {
            let cell = Cell::size(used);
            Cell { text: format!("{} of {}", cell.text, words::size(total)), ..cell }
        }
    }
}

fn models(seen: &Overview) -> Table {
    let mut table = Table::new(["MODEL", "SERVERS", "AVAILABLE", "LOADED", "RUN", "WAIT", "VRAM"]);
    for model in &seen.models {
        let none_left = model.available == 0 && model.servers > 0;
        table.row([
            Cell::text(&model.name),
            Cell::count(model.servers),
            Cell::count(model.available).toned(if none_left { Tone::Bad } else { Tone::Plain }),
            Cell::count(model.loaded),
            Cell::count(model.in_flight),
            Cell::count(model.waiting),
            if model.vram == 0 { Cell::none() } else { Cell::size(model.vram) },
        ]);
    }
    table
}

fn requests(seen: &Overview) -> Table {
    let mut table = Table::new(["SERVER", "MODEL", "PHASE", "SINCE", "REQUEST"]);
    for one in &seen.in_flight {
        table.row([
            Cell::text(&one.server_id),
            Cell::maybe(one.model.as_ref()),
            Cell::text(&one.phase),
            Cell::milliseconds(Some(one.age_ms)),
            Cell::maybe(one.id.as_ref()),
        ]);
    }
    table
}

fn queues(seen: &Overview) -> Table {
    let mut table = Table::new(["UPSTREAM", "STATE", "MODEL", "WAIT", "MOST", "OLDEST"]);
    for queue in &seen.queues {
        let state = if queue.paused { Cell::state("paused") } else { Cell::text("running").toned(Tone::Good) };
        let most = queue.max.map_or_else(Cell::none, Cell::count);
        if queue.models.is_empty() && queue.paused {
            let upstream = Cell::text(&queue.upstream);
            table.row([upstream, state.clone(), Cell::none(), Cell::count(0), most.clone(), Cell::none()]);
        }
        for model in &queue.models {
            table.row([
                Cell::text(&queue.upstream),
                state.clone(),
                Cell::text(&model.model),
                Cell::count(model.waiting),
                most.clone(),
                Cell::milliseconds(model.oldest_ms),
            ]);
        }
    }
    table
}

fn circuits(seen: &Overview, now: OffsetDateTime) -> Table {
    let mut table = Table::new(["SERVER", "MODEL", "STATE", "FAILURES", "HALF OPEN"]);
    for circuit in &seen.circuits {
        table.row([
            Cell::text(&circuit.server_id),
            Cell::maybe(circuit.model.as_ref()),
            Cell::state(&circuit.state),
            Cell::count(circuit.failures),
            moment(circuit.next_retry_at.as_ref(), now),
        ]);
    }
    table
}

fn bans(seen: &Overview, now: OffsetDateTime) -> Table {
    let mut table = Table::new(["SERVER", "MODEL", "UNTIL", "BY", "REASON"]);
    for ban in &seen.bans {
        table.row([
            Cell::text(ban.server_id.as_deref().unwrap_or("all")),
            Cell::text(ban.model.as_deref().unwrap_or("all")),
            if ban.until.is_some() { moment(ban.until.as_ref(), now) } else { Cell::text("lifted") },
            Cell::maybe(ban.who.as_ref()),
            Cell::maybe(ban.reason.as_ref()),
        ]);
    }
    table
}

fn decisions(seen: &Overview, now: OffsetDateTime) -> Table {
    let mut table = Table::new(["WHEN", "UPSTREAM", "MODEL", "SERVER", "WHY"]);
    for decision in &seen.decisions {
        let nobody = || Cell::text("nobody").toned(Tone::Bad);
        table.row([
            moment(Some(&decision.at), now),
            Cell::text(&decision.upstream),
            Cell::text(&decision.model),
            decision.server.as_ref().map_or_else(nobody, Cell::text),
            Cell::maybe(decision.reason.as_ref()),
        ]);
    }
    table
}
