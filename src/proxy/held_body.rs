//! A request body that is kept so that it can be sent later, or again.
//!
//! A short one stays in memory. One that becomes too long for that goes to a temporary file without a name, its
//! beginning too, so nothing is left behind whatever happens and whoever waits with much holds little memory. Both count
//! against the process's body budget.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use crate::fleet::body_budget::{BodyBudget, Held};

/// Bytes that go to the file at a time.
const WRITE_PIECE: usize = 128 << 10;
/// Bytes that come from it at a time; several of them may be on their way to the server.
const READ_PIECE: usize = 64 << 10;

/// Why a body cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The budget of the process is used up.
    #[error("the bodies held by this process fill `server.body_budget`")]
    Budget,
    /// The temporary file failed.
    #[error("temporary file: {0}")]
    File(#[from] io::Error),
}

/// How bodies are held.
#[derive(Clone, Debug)]
pub struct HoldRules {
    /// The budget of the process.
    pub budget: Arc<BodyBudget>,
    /// Bytes up to which a body stays in memory.
    pub memory: usize,
    /// Folder for temporary files.
    pub folder: PathBuf,
}

/// A held body.
#[derive(Debug)]
pub struct HeldBody {
    rules: HoldRules,
    /// What stays in memory.
    pieces: Vec<Bytes>,
    in_memory: usize,
    file: Option<Arc<File>>,
    in_file: u64,
    /// On its way to the file.
    pending: BytesMut,
    held: Held,
}

/// What stands at a place in a held body.
pub enum At {
    /// Bytes, and the place after them.
    Piece(Bytes, Cursor),
    /// Bytes that are being read from the file, and the place after them.
    File(JoinHandle<io::Result<Bytes>>, Cursor),
    /// Its end.
    End,
}

/// A place in a held body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    piece: usize,
    offset: u64,
}

impl HeldBody {
    /// An empty body.
    pub fn new(rules: HoldRules) -> Self {
        let held = Held::new(Arc::clone(&rules.budget));
        Self { rules, pieces: Vec::new(), in_memory: 0, file: None, in_file: 0, pending: BytesMut::new(), held }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the budget or the disk is full.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), HoldError> {
        if !self.held.grow(bytes.len()) {
            return Err(HoldError::Budget);
        }
        // Once something went to the file, everything does: the order is the client's.
        if self.file.is_none() && self.pending.is_empty() && self.in_memory + bytes.len() <= self.rules.memory {
            self.in_memory += bytes.len();
            self.keep(bytes);
            return Ok(());
        }
        self.spill().await?;
        self.pending.extend_from_slice(&bytes);
        if self.pending.len() >= WRITE_PIECE {
            self.write_pending().await?;
        }
        Ok(())
    }

    /// Small pieces are gathered: a body that comes byte by byte must not cost a hundred times its size.
    fn keep(&mut self, bytes: Bytes) {
        const SMALL: usize = 4096;
        match self.pieces.last_mut() {
            Some(last) if last.len() + bytes.len() <= SMALL => {
                let mut gathered = BytesMut::from(std::mem::take(last));
                gathered.reserve(SMALL - gathered.len());
                gathered.extend_from_slice(&bytes);
                *last = gathered.freeze();
            }
            _ => self.pieces.push(bytes),
        }
    }

    /// Brings everything to its place; after this the body can be read.
    ///
    /// # Errors
    /// When the disk is full.
    pub async fn complete(&mut self) -> Result<(), HoldError> {
        if !self.pending.is_empty() {
            self.write_pending().await?;
        }
        self.pending = BytesMut::new();
        Ok(())
    }

    /// Brings to the file what lay in memory.
    async fn spill(&mut self) -> Result<(), HoldError> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let file = self.file().await?;
        let pieces = std::mem::take(&mut self.pieces);
        let written = blocking(move || {
            let mut at = 0;
            for piece in &pieces {
                file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok((at, pieces))
        });
        // They go along and come back: what one thread allocates and another frees stays resident.
        let (length, _pieces) = written.await?;
        self.in_file = length;
        self.in_memory = 0;
        Ok(())
    }

    async fn file(&mut self) -> Result<Arc<File>, HoldError> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let folder = self.rules.folder.clone();
        let file = blocking(move || tempfile::tempfile_in(folder)).await?;
        Ok(Arc::clone(self.file.insert(Arc::new(file))))
    }

    async fn write_pending(&mut self) -> Result<(), HoldError> {
        let file = self.file().await?;
        // As above.
        let bytes = std::mem::take(&mut self.pending);
        let at = self.in_file;
        self.pending = blocking(move || file.write_all_at(&bytes, at).map(|()| bytes)).await?;
        self.in_file += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// What stands at a place.
    pub fn at(&self, cursor: Cursor) -> At {
        if let Some(piece) = self.pieces.get(cursor.piece) {
            return At::Piece(piece.clone(), Cursor { piece: cursor.piece + 1, offset: 0 });
        }
        let left = self.in_file - cursor.offset;
        let Some(file) = self.file.as_ref().filter(|_| left > 0) else { return At::End };
        let file = Arc::clone(file);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(READ_PIECE);
        let next = Cursor { piece: cursor.piece, offset: cursor.offset + length as u64 };
        let mut bytes = BytesMut::zeroed(length);
        let read = move || file.read_exact_at(&mut bytes, cursor.offset).map(|()| bytes.freeze());
        At::File(tokio::task::spawn_blocking(read), next)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, HoldError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(HoldError::File(io::Error::other("the worker thread failed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(memory: usize, budget: usize) -> HoldRules {
        let total = Arc::new(BodyBudget::default());
        total.set_limit(budget);
        HoldRules { budget: total, memory, folder: std::env::temp_dir() }
    }

    async fn read_all(body: &HeldBody) -> Vec<u8> {
        let mut cursor = Cursor::default();
        let mut all = Vec::new();
        loop {
            let bytes;
            (bytes, cursor) = match body.at(cursor) {
                At::Piece(bytes, next) => (bytes, next),
                At::File(reading, next) => (reading.await.unwrap().unwrap(), next),
                At::End => return all,
            };
            all.extend_from_slice(&bytes);
        }
    }

    #[tokio::test]
    async fn what_was_pushed_is_read_as_often_as_wanted() {
        for memory in [0, 10, 5000, 1 << 20] {
            let rules = rules(memory, 4 << 20);
            let mut body = HeldBody::new(rules.clone());
            let mut expected = Vec::new();
            for number in 0..3000_u32 {
                // Lengths go up and down, so that a small piece follows one that did not fit.
                let bytes = vec![number as u8; (number * 7919 % 701) as usize];
                expected.extend_from_slice(&bytes);
                body.push(bytes.into()).await.unwrap();
            }
            body.complete().await.unwrap();
            assert_eq!(body.pieces.is_empty(), expected.len() > memory, "all of it lies in one place");
            assert_eq!(read_all(&body).await, expected, "{memory} bytes in memory");
            assert_eq!(read_all(&body).await, expected);
            assert_eq!(rules.budget.used(), expected.len());
            drop(body);
            assert_eq!(rules.budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn the_budget_ends_it() {
        let mut body = HeldBody::new(rules(10, 100));
        body.push(Bytes::from_static(&[0; 90])).await.unwrap();
        assert!(matches!(body.push(Bytes::from_static(&[0; 11])).await, Err(HoldError::Budget)));
    }
}
