//! Object records that can be told apart: content follows from oid and version, so that a reply can be
//! checked without keeping what was stored.

use zeolite::ids::Oid;

/// Class and beginning of the state of a persistent mapping, `{'data': {'filler': ...`.
const HEAD: &[u8] = b"\x80\x03cpersistent.mapping\nPersistentMapping\n.\x80\x03}X\x04\0\0\0data}X\x06\0\0\0fillerB";
const TAIL: &[u8] = b"ss.";

/// The shortest record.
pub const MIN_BYTES: usize = HEAD.len() + 4 + TAIL.len();

/// The record of `version` of `oid`, of exactly `size` bytes.
pub fn record(oid: Oid, version: u64, size: usize) -> Vec<u8> {
    let filler = size.saturating_sub(MIN_BYTES);
    let mut random = Random::new(oid.0 ^ version.rotate_left(32));
    let mut record = Vec::with_capacity(size + 8);
    record.extend_from_slice(HEAD);
    record.extend(u32::try_from(filler).unwrap_or(u32::MAX).to_le_bytes());
    while record.len() < size - TAIL.len() {
        record.extend(random.next().to_le_bytes());
    }
    record.truncate(size - TAIL.len());
    record.extend_from_slice(TAIL);
    record
}

/// splitmix64: the same sequence in every run, so that both servers are asked for the same.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
