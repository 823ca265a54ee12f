//! The rows of quotas in the file: one for each quota, key and window.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::ledger::{Ledger, MOST};
use super::{Account, Charge};
use crate::history::batch::SUMS;
use crate::policy::quota::{Period, Tokens, Window};

/// How long rows of windows that are over are kept, in seconds: a clock may be set back.
const KEPT: i64 = 86_400;

/// Charges that are to be written, summed up by account and window.
#[derive(Default)]
pub(in crate::history) struct Charges(HashMap<(u64, i64), (Arc<Account>, Charge)>);

/// What is in the file now.
pub(in crate::history) struct Settled {
    account: Arc<Account>,
    written: Charge,
    total: Tokens,
}

impl Settled {
    /// Tells the account; to be done once, when the file has it.
    pub(in crate::history) fn tell(&self) {
        self.account.settle(self.written.period, self.written.tokens, self.total);
    }
}

impl Charges {
    pub(in crate::history) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a charge. Whether there was room for it: those that wait for a file that cannot be written hold their accounts, and
    /// clients can make up many. One that is not taken goes with the next charge of its account.
    pub(in crate::history) fn add(&mut self, account: Arc<Account>, charge: Charge) -> bool {
        let key = (account.hash, charge.period.starts);
        if self.0.len() >= SUMS && !self.0.contains_key(&key) {
            account.keep(charge);
            return false;
        }
        let sum = self.0.entry(key).or_insert_with(|| (account, Charge { tokens: Tokens::default(), ..charge }));
        sum.1.tokens = sum.1.tokens.plus(charge.tokens);
        true
    }

    pub(in crate::history) fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives up those of windows that are over: nobody asks for them, and the file cannot be written.
    pub(in crate::history) fn forget_passed(&mut self, now: i64) {
        self.0.retain(|_, (_, charge)| charge.period.ends > now);
    }

    /// Adds all of them to the file.
    pub(in crate::history) fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Settled>> {
        let sql = concat!(
            "INSERT INTO quotas (quota, every, subject, starts, ends, prompt, output) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET ",
            plus!("prompt"),
            ", ",
            plus!("output"),
            " RETURNING prompt, output"
        );
        let mut settled = Vec::with_capacity(self.0.len());
        for (account, charge) in self.0.values() {
            let total = put(transaction, sql, account, charge.period, charge.tokens)?;
            settled.push(Settled { account: Arc::clone(account), written: *charge, total });
        }
        Ok(settled)
    }
}

fn put(
    connection: &Connection,
    sql: &str,
    account: &Account,
    period: Period,
    tokens: Tokens,
) -> rusqlite::Result<Tokens> {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let row = params![
        account.quota,
        account.window.as_str(),
        account.subject,
        period.starts,
        period.ends,
        whole(tokens.prompt),
        whole(tokens.output),
    ];
    connection.prepare_cached(sql)?.query_row(row, |row| {
        Ok(Tokens { prompt: row.get::<_, i64>(0)?.unsigned_abs(), output: row.get::<_, i64>(1)?.unsigned_abs() })
    })
}

/// Brings a file that was opened and the accounts together: the file gets what it lacks, then the accounts what it has.
pub(in crate::history) fn merge(ledger: &Ledger, connection: &mut Connection, now: i64) -> rusqlite::Result<()> {
    let owed: Vec<_> = ledger.all().into_iter().filter_map(|account| Some((account.owed(now)?, account))).collect();
    if !owed.is_empty() {
        let sql = "INSERT INTO quotas (quota, every, subject, starts, ends, prompt, output) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET \
                   prompt = max(prompt, excluded.prompt), output = max(output, excluded.output) \
                   RETURNING prompt, output";
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for ((period, tokens), account) in owed {
            put(&transaction, sql, &account, period, tokens)?;
        }
        transaction.commit()?;
    }
    read(ledger, connection, now)
}

/// Takes what the file has of the windows that run: whoever charged it.
pub(in crate::history) fn read(ledger: &Ledger, connection: &Connection, now: i64) -> rusqlite::Result<()> {
    let sql = "SELECT quota, every, subject, starts, ends, prompt, output FROM quotas WHERE ends > ?1 \
               ORDER BY prompt + output DESC LIMIT ?2";
    let mut all = connection.prepare_cached(sql)?;
    let mut rows = all.query(params![now, i64::try_from(MOST).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        // A word that a later Arriero knows is not ours to count.
        let Some(window) = Window::of_word(&row.get::<_, String>(1)?) else { continue };
        let (quota, subject): (String, String) = (row.get(0)?, row.get(2)?);
        let period = Period { starts: row.get(3)?, ends: row.get(4)? };
        let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
        let total = Tokens { prompt: number(5)?, output: number(6)? };
        ledger.account(&quota, window, &subject, now).adopt(period, total, now);
    }
    Ok(())
}

/// Begins the windows of these accounts anew, in the file and then in memory.
pub(in crate::history) fn reset(
    accounts: &[Arc<Account>],
    connection: &mut Connection,
    now: i64,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sql =
        "UPDATE quotas SET prompt = 0, output = 0 WHERE quota = ?1 AND every = ?2 AND subject = ?3 AND starts = ?4";
    let periods: Vec<Period> = accounts.iter().map(|account| account.look(now).0).collect();
    for (account, period) in accounts.iter().zip(&periods) {
        let row = params![account.quota, account.window.as_str(), account.subject, period.starts];
        transaction.prepare_cached(sql)?.execute(row)?;
    }
    transaction.commit()?;
    accounts.iter().zip(periods).for_each(|(account, period)| account.forget(period));
    Ok(())
}

/// Deletes rows of windows that were over long ago.
pub(in crate::history) fn prune(connection: &Connection, now: f64) -> rusqlite::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "a day")]
    connection.prepare_cached("DELETE FROM quotas WHERE ends <= ?1")?.execute(params![now - KEPT as f64])?;
    Ok(())
}
