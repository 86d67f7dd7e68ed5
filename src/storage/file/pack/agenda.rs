//! Positions that are still to be read, taken in the order of the file again and again, as an elevator takes its
//! passengers: what is found on the way up and lies ahead is taken along, the rest on the next way.
//!
//! So references are followed with long reads forward, not with one random read for each, and a chain of any length
//! needs no stack. A position costs four bytes until it is read.

use std::collections::BTreeSet;

/// Bytes of the file that are dealt with together; a power of two.
pub(super) const BLOCK: u64 = 1 << 20;

/// Positions that wait.
pub(super) struct Agenda {
    /// Offsets within each block.
    blocks: Vec<Vec<u32>>,
    waiting: BTreeSet<usize>,
    at: usize,
}

impl Agenda {
    /// For positions below `end`.
    pub fn new(end: u64) -> Self {
        let blocks = usize::try_from(end / BLOCK + 1).unwrap_or(usize::MAX);
        Self { blocks: vec![Vec::new(); blocks], waiting: BTreeSet::new(), at: 0 }
    }

    pub fn push(&mut self, position: u64) {
        let block = usize::try_from(position / BLOCK).unwrap_or(usize::MAX);
        let Some(offsets) = self.blocks.get_mut(block) else {
            debug_assert!(false, "{position} is behind the end");
            return;
        };
        if offsets.is_empty() {
            self.waiting.insert(block);
        }
        offsets.push((position % BLOCK) as u32);
    }

    /// All that waits in the next block, in order; `None` when nothing waits at all.
    pub fn take(&mut self) -> Option<Vec<u64>> {
        let next = self.waiting.range(self.at..).next().or_else(|| self.waiting.first()).copied()?;
        self.waiting.remove(&next);
        // What is found there now and lies in the same block comes next.
        self.at = next;
        let mut offsets = std::mem::take(self.blocks.get_mut(next)?);
        offsets.sort_unstable();
        let start = next as u64 * BLOCK;
        Some(offsets.into_iter().map(|offset| start + u64::from(offset)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_up_and_begins_again() {
        let mut agenda = Agenda::new(10 * BLOCK);
        for position in [5 * BLOCK + 7, 5 * BLOCK, 10 * BLOCK] {
            agenda.push(position);
        }
        assert_eq!(agenda.take().expect("waits"), [5 * BLOCK, 5 * BLOCK + 7]);
        for position in [4, 5 * BLOCK + 9, 6 * BLOCK] {
            agenda.push(position);
        }
        let rest: Vec<_> = std::iter::from_fn(|| agenda.take()).flatten().collect();
        assert_eq!(rest, [5 * BLOCK + 9, 6 * BLOCK, 10 * BLOCK, 4]);
    }
}
