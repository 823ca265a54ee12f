//! What holds for each model on each server, as a table.
//!
//! A choice asks about one model on many servers, so what belongs to one model lies together.

use std::ops::{Index, IndexMut};

use super::state::Pair;
use super::words::{ModelId, ServerId};

/// A table with a row for each model and a column for each server.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    rows: Vec<Vec<Pair>>,
    servers: usize,
}

impl Pairs {
    /// One server more.
    pub(super) fn add_server(&mut self) {
        self.servers += 1;
        self.rows.iter_mut().for_each(|row| row.push(Pair::default()));
    }

    /// One model more.
    pub(super) fn add_model(&mut self) {
        self.rows.push(vec![Pair::default(); self.servers]);
    }

    /// All models on a server.
    pub(super) fn of_server(&self, server: ServerId) -> impl Iterator<Item = (ModelId, &Pair)> {
        self.rows.iter().enumerate().map(move |(model, row)| (model, &row[server]))
    }
}

impl Index<(ServerId, ModelId)> for Pairs {
    type Output = Pair;

    fn index(&self, (server, model): (ServerId, ModelId)) -> &Pair {
        &self.rows[model][server]
    }
}

impl IndexMut<(ServerId, ModelId)> for Pairs {
    fn index_mut(&mut self, (server, model): (ServerId, ModelId)) -> &mut Pair {
        &mut self.rows[model][server]
    }
}
