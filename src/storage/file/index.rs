//! Where the current record of each object is: oid to position, in about eight bytes per object.
//!
//! As in an `.index` file, oids share their upper six bytes; what remains are two bytes of oid and six
//! of position, kept as one number. These numbers sit in sorted chunks of bounded size, so that neither a
//! store in the middle nor a copy for writing ever moves much memory.
//!
//! A clone shares everything with its original until one of them changes: a snapshot for saving costs
//! one pointer for each 65 536 oids.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::format::POSITION_LIMIT;
use crate::ids::Oid;

/// The positions of all objects.
#[derive(Clone, Default)]
pub(super) struct Index {
    buckets: BTreeMap<u64, Arc<Bucket>>,
    len: u64,
}

/// The oids with one six-byte prefix: chunks in order, none of them empty, each with its first suffix.
#[derive(Clone, Default)]
struct Bucket(Vec<(u16, Arc<Vec<Entry>>)>);

/// Two bytes of oid above six bytes of position.
#[derive(Clone, Copy)]
struct Entry(u64);

const POSITION_BITS: u32 = 48;
/// 8 KiB: copied when a snapshot still shares it, moved in part when an oid comes in between.
const CHUNK_ENTRIES: usize = 1024;

impl Index {
    /// How many objects there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where the current record of `oid` is.
    pub fn get(&self, oid: Oid) -> Option<u64> {
        let (prefix, suffix) = split(oid);
        let Bucket(chunks) = self.buckets.get(&prefix)?.as_ref();
        let after = chunks.partition_point(|(first, _)| *first <= suffix);
        let (first, chunk) = chunks.get(after.checked_sub(1)?)?;
        let at = search(chunk, *first, suffix).ok()?;
        chunk.get(at).map(|entry| entry.position())
    }

    /// Sets where the current record of `oid` is.
    pub fn insert(&mut self, oid: Oid, position: u64) {
        debug_assert!(position < POSITION_LIMIT, "whoever makes a position checks it");
        let (prefix, suffix) = split(oid);
        let bucket = self.buckets.entry(prefix).or_default();
        if Arc::make_mut(bucket).insert(Entry::new(suffix, position)) {
            self.len += 1;
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, oid: Oid) {
        let (prefix, suffix) = split(oid);
        let Some(bucket) = self.buckets.get_mut(&prefix) else {
            return;
        };
        let bucket = Arc::make_mut(bucket);
        if bucket.remove(suffix) {
            self.len -= 1;
        }
        if bucket.0.is_empty() {
            self.buckets.remove(&prefix);
        }
    }

    /// Forgets the objects for which `stays` is false, and gives their memory back.
    pub fn retain(&mut self, mut stays: impl FnMut(Oid) -> bool) {
        let mut len = 0;
        self.buckets.retain(|&prefix, bucket| {
            let bucket = Arc::make_mut(bucket);
            bucket.0.retain_mut(|(first, chunk)| {
                let chunk = Arc::make_mut(chunk);
                chunk.retain(|entry| stays(join(prefix, entry.suffix())));
                if chunk.len() < chunk.capacity() / 2 {
                    chunk.shrink_to_fit();
                }
                len += chunk.len() as u64;
                chunk.first().map(|entry| *first = entry.suffix()).is_some()
            });
            !bucket.0.is_empty()
        });
        self.len = len;
    }

    /// Takes over a whole bucket as an `.index` file has it: suffixes in ascending order, and their
    /// positions. `false` if the prefix is there already or the order is wrong; the index is unusable then.
    pub fn insert_bucket(&mut self, prefix: u64, entries: impl Iterator<Item = (u16, u64)>) -> bool {
        let mut bucket = Bucket::default();
        let mut chunk = Vec::new();
        let mut last = None;
        for (suffix, position) in entries {
            if last.is_some_and(|last| suffix <= last) {
                return false;
            }
            last = Some(suffix);
            chunk.push(Entry::new(suffix, position));
            if chunk.len() == CHUNK_ENTRIES {
                bucket.push_chunk(std::mem::take(&mut chunk));
            }
            self.len += 1;
        }
        bucket.push_chunk(chunk);
        bucket.0.shrink_to_fit();
        bucket.0.is_empty() || self.buckets.insert(prefix, Arc::new(bucket)).is_none()
    }

    /// The first object at or after `oid`, and its position.
    pub fn first_from(&self, oid: Oid) -> Option<(Oid, u64)> {
        let (prefix, suffix) = split(oid);
        let found = self.buckets.get(&prefix).and_then(|bucket| bucket.first_from(suffix));
        if let Some(entry) = found {
            return Some((join(prefix, entry.suffix()), entry.position()));
        }
        let (&prefix, bucket) = self.buckets.range(prefix.checked_add(1)?..).next()?;
        let entry = bucket.entries().next()?;
        Some((join(prefix, entry.suffix()), entry.position()))
    }

    /// The largest oid.
    pub fn last_oid(&self) -> Option<Oid> {
        let (&prefix, bucket) = self.buckets.last_key_value()?;
        let (_, chunk) = bucket.0.last()?;
        Some(join(prefix, chunk.last()?.suffix()))
    }

    /// The buckets in order: prefix, and suffixes with positions in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, impl Iterator<Item = (u16, u64)> + Clone)> {
        self.buckets
            .iter()
            .map(|(&prefix, bucket)| (prefix, bucket.entries().map(|entry| (entry.suffix(), entry.position()))))
    }
}

impl Bucket {
    fn push_chunk(&mut self, mut chunk: Vec<Entry>) {
        if let Some(first) = chunk.first() {
            let first = first.suffix();
            chunk.shrink_to_fit();
            self.0.push((first, Arc::new(chunk)));
        }
    }

    /// Whether the entry is new, not one that replaces another.
    fn insert(&mut self, entry: Entry) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= entry.suffix());
        let at = after.saturating_sub(1);
        let Some((first, chunk)) = self.0.get_mut(at) else {
            self.push_chunk(vec![entry]);
            return true;
        };
        let chunk = Arc::make_mut(chunk);
        match search(chunk, *first, entry.suffix()) {
            Ok(found) => {
                if let Some(old) = chunk.get_mut(found) {
                    *old = entry;
                }
                return false;
            }
            Err(gap) if chunk.len() < CHUNK_ENTRIES => {
                if chunk.len() == chunk.capacity() {
                    // A Vec would double; an eighth keeps the promise of nine bytes per object.
                    chunk.reserve_exact((chunk.len() / 8).max(4).min(CHUNK_ENTRIES - chunk.len()));
                }
                chunk.insert(gap, entry);
                *first = (*first).min(entry.suffix());
            }
            // Oids mostly come in order: start a new chunk instead of halving a full one.
            Err(gap) if gap == chunk.len() => self.0.insert(at + 1, (entry.suffix(), Arc::new(vec![entry]))),
            Err(_) => {
                let upper = chunk.split_off(chunk.len() / 2);
                chunk.shrink_to_fit();
                if let Some(middle) = upper.first() {
                    self.0.insert(at + 1, (middle.suffix(), Arc::new(upper)));
                }
                return self.insert(entry);
            }
        }
        true
    }

    /// Whether there was such an entry.
    fn remove(&mut self, suffix: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= suffix);
        let at = after.saturating_sub(1);
        let Some((first, chunk)) = self.0.get_mut(at) else {
            return false;
        };
        let Ok(found) = search(chunk, *first, suffix) else {
            return false;
        };
        let chunk = Arc::make_mut(chunk);
        chunk.remove(found);
        match chunk.first() {
            Some(entry) => *first = entry.suffix(),
            None => drop(self.0.remove(at)),
        }
        true
    }

    fn first_from(&self, suffix: u16) -> Option<Entry> {
        let after = self.0.partition_point(|(first, _)| *first <= suffix);
        self.0.get(after.saturating_sub(1)..)?.iter().find_map(|(_, chunk)| {
            let at = chunk.partition_point(|entry| entry.suffix() < suffix);
            chunk.get(at).copied()
        })
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + Clone {
        self.0.iter().flat_map(|(_, chunk)| chunk.iter().copied())
    }
}

impl Entry {
    fn new(suffix: u16, position: u64) -> Self {
        Self(u64::from(suffix) << POSITION_BITS | position & (POSITION_LIMIT - 1))
    }

    fn suffix(self) -> u16 {
        (self.0 >> POSITION_BITS) as u16
    }

    fn position(self) -> u64 {
        self.0 & (POSITION_LIMIT - 1)
    }
}

/// Where `suffix` is in a chunk that begins with `first`, or belongs.
///
/// No suffix comes twice, so it is at most as far behind as it is larger: just so far where none is missing.
fn search(chunk: &[Entry], first: u16, suffix: u16) -> Result<usize, usize> {
    let farthest = usize::from(suffix.saturating_sub(first));
    match chunk.get(farthest) {
        Some(entry) if entry.suffix() == suffix => Ok(farthest),
        _ => {
            let before = chunk.get(..farthest).unwrap_or(chunk);
            before.binary_search_by_key(&suffix, |entry| entry.suffix())
        }
    }
}

fn split(oid: Oid) -> (u64, u16) {
    #[expect(clippy::cast_possible_truncation, reason = "the suffix is the lower sixteen bits")]
    let suffix = oid.0 as u16;
    (oid.0 >> 16, suffix)
}

fn join(prefix: u64, suffix: u16) -> Oid {
    Oid(prefix << 16 | u64::from(suffix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Index {
        /// Bytes on the heap, with what an allocator adds to each block.
        fn heap_bytes(&self) -> usize {
            let block = |bytes: usize| bytes.next_multiple_of(16) + 16;
            let bucket_bytes = |bucket: &Bucket| -> usize {
                let chunk_bytes = |chunk: &Vec<Entry>| block(16 + 24) + block(chunk.capacity() * 8);
                block(16 + 24)
                    + block(bucket.0.capacity() * 16)
                    + bucket.0.iter().map(|(_, c)| chunk_bytes(c)).sum::<usize>()
            };
            self.buckets.values().map(|bucket| 32 + bucket_bytes(bucket)).sum()
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(
            operations in prop::collection::vec((prop_oneof![0_u64..70_000, 0_u64..300, any::<u64>()], 4..POSITION_LIMIT), 0..400),
            removals in prop::collection::vec((any::<prop::sample::Index>(), 1..40_usize), 0..10),
            probes in prop::collection::vec(prop_oneof![0_u64..70_000, any::<u64>()], 20),
        ) {
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (oid, position) in operations {
                index.insert(Oid(oid), position);
                model.insert(oid, position);
            }
            for (first, count) in removals {
                let oids: Vec<u64> = model.keys().copied().collect();
                for oid in oids.iter().skip(first.index(oids.len().max(1))).take(count) {
                    index.remove(Oid(*oid));
                    model.remove(oid);
                    index.remove(Oid(*oid));
                }
            }
            prop_assert_eq!(index.len(), model.len() as u64);
            prop_assert_eq!(index.last_oid(), model.keys().last().map(|&oid| Oid(oid)));
            for oid in probes.into_iter().chain(model.keys().copied()).chain([0, u64::MAX]) {
                prop_assert_eq!(index.get(Oid(oid)), model.get(&oid).copied());
                let first = model.range(oid..).next().map(|(&oid, &position)| (Oid(oid), position));
                prop_assert_eq!(index.first_from(Oid(oid)), first);
            }
            let all: Vec<_> = index.buckets().flat_map(|(prefix, entries)| entries.map(move |(suffix, position)| (join(prefix, suffix).0, position))).collect();
            prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
            let snapshot = index.clone();
            index.retain(|oid| oid.0 % 3 == 1);
            prop_assert_eq!(snapshot.len(), model.len() as u64);
            model.retain(|oid, _| oid % 3 == 1);
            prop_assert_eq!(index.len(), model.len() as u64);
            prop_assert_eq!(index.last_oid(), model.keys().last().map(|&oid| Oid(oid)));
            for (&oid, &position) in &model {
                prop_assert_eq!(index.first_from(Oid(oid.saturating_sub(2))), Some((Oid(oid), position)));
            }
        }
    }

    #[test]
    fn chunks_split_wherever_oids_come() {
        let mut index = Index::default();
        // 40503 is odd, so that this walks through all suffixes in a scattered order.
        for step in 0..65_536_u64 {
            index.insert(Oid(step * 40_503 % 65_536), step + 4);
        }
        for step in 0..65_536_u64 {
            assert_eq!(index.get(Oid(step * 40_503 % 65_536)), Some(step + 4));
        }
        assert!(index.heap_bytes() < 9 * 65_536, "{} bytes", index.heap_bytes());
    }

    #[test]
    fn costs_nine_bytes_per_object_at_most() {
        let mut dense = Index::default();
        for oid in 0..300_000 {
            dense.insert(Oid(oid), oid * 1000);
        }
        assert!(dense.heap_bytes() < 9 * 300_000, "{} bytes", dense.heap_bytes());
        dense.retain(|oid| oid.0 % 1000 < 300);
        assert!(dense.heap_bytes() < 12 * 90_000, "{} bytes", dense.heap_bytes());
    }

    #[test]
    fn a_snapshot_does_not_see_later_changes() {
        let mut index = Index::default();
        index.insert(Oid(7), 100);
        let snapshot = index.clone();
        index.insert(Oid(7), 200);
        index.insert(Oid(8), 300);
        assert_eq!((snapshot.get(Oid(7)), snapshot.get(Oid(8)), snapshot.len()), (Some(100), None, 1));
        assert_eq!((index.get(Oid(7)), index.len()), (Some(200), 2));
    }
}
