//! The bytes of `Data.fs`: magic, transaction header, data header.
//!
//! Everything is big-endian. A transaction record is
//!
//! ```text
//! tid 8 | length 8 | status 1 | user, description, extension lengths 2+2+2 | the three strings
//! data records...
//! length 8, again                       (length counts everything but this field)
//! ```
//!
//! and a data record is
//!
//! ```text
//! oid 8 | tid 8 | previous 8 | transaction 8 | version length 2 | data length 8
//! data, or 8 bytes of back pointer when the data length is zero
//! ```
//!
//! `previous` is the position of the revision that was current before the transaction began,
//! `transaction` that of the enclosing transaction header. A back pointer names an earlier record with
//! the same state; zero says that the object does not exist as of this revision.
//!
//! This module turns bytes into headers and back. It reads no file and judges no position.

use byteorder::{BigEndian, ByteOrder};
use nom::number::complete::{be_u8, be_u16, be_u64};
use nom::{IResult, Parser};

use crate::ids::{Oid, Tid};

/// First bytes of a file written under Python 3. New files get this one.
pub(super) const MAGIC_FS30: [u8; 4] = *b"FS30";
/// First bytes of a file written under Python 2. The records are laid out in the same way.
pub(super) const MAGIC_FS21: [u8; 4] = *b"FS21";
/// Where the first transaction begins.
pub(super) const FIRST_TRANSACTION: u64 = 4;
/// Bytes of the transaction length that is repeated after the transaction.
pub(super) const TRAILER_LEN: u64 = 8;
/// Bytes of a back pointer.
pub(super) const BACK_POINTER_LEN: u64 = 8;
/// Positions must fit the six bytes that an `.index` file has for them.
pub(super) const POSITION_LIMIT: u64 = 1 << 48;

/// Status of a finished transaction.
pub(super) const STATUS_COMMITTED: u8 = b' ';
/// Status of a transaction that went through a pack.
pub(super) const STATUS_PACKED: u8 = b'p';
/// Status of a voted, unfinished transaction: always the end of the valid file.
pub(super) const STATUS_VOTED: u8 = b'c';
/// Status of a transaction undone by very old versions: its records do not count.
pub(super) const STATUS_UNDONE: u8 = b'u';
/// Where the status byte is in a transaction header.
pub(super) const STATUS_OFFSET: u64 = 16;

/// The fixed part of a transaction record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransactionHeader {
    pub tid: Tid,
    /// Bytes of the whole record less the repeated length.
    pub len: u64,
    pub status: u8,
    pub user_len: u16,
    pub description_len: u16,
    pub extension_len: u16,
}

impl TransactionHeader {
    pub const LEN: usize = 23;
    /// [`Self::LEN`] where positions are reckoned.
    pub const SIZE: u64 = Self::LEN as u64;

    /// The header that `input` begins with, if it is long enough.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let parsed: IResult<&[u8], _> = (be_u64, be_u64, be_u8, be_u16, be_u16, be_u16).parse(input);
        let (_, (tid, len, status, user_len, description_len, extension_len)) = parsed.ok()?;
        Some(Self { tid: Tid(tid), len, status, user_len, description_len, extension_len })
    }

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        BigEndian::write_u64(&mut bytes[0..8], self.tid.0);
        BigEndian::write_u64(&mut bytes[8..16], self.len);
        bytes[16] = self.status;
        BigEndian::write_u16(&mut bytes[17..19], self.user_len);
        BigEndian::write_u16(&mut bytes[19..21], self.description_len);
        BigEndian::write_u16(&mut bytes[21..23], self.extension_len);
        bytes
    }

    /// Bytes of user, description and extension together.
    pub fn metadata_len(&self) -> u64 {
        u64::from(self.user_len) + u64::from(self.description_len) + u64::from(self.extension_len)
    }

    /// Bytes before the first data record.
    pub fn full_len(&self) -> u64 {
        Self::SIZE + self.metadata_len()
    }

    /// Where the next transaction begins if this one begins at `position`.
    pub fn next_position(&self, position: u64) -> Option<u64> {
        position.checked_add(self.len)?.checked_add(TRAILER_LEN)
    }
}

/// The fixed part of a data record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataHeader {
    pub oid: Oid,
    pub tid: Tid,
    pub previous: u64,
    pub transaction: u64,
    /// Zero in every file that ZODB 3.9 or later can read.
    pub version_len: u16,
    pub data_len: u64,
}

impl DataHeader {
    pub const LEN: usize = 42;
    /// [`Self::LEN`] where positions are reckoned.
    pub const SIZE: u64 = Self::LEN as u64;

    /// The header that `input` begins with, if it is long enough.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let parsed: IResult<&[u8], _> = (be_u64, be_u64, be_u64, be_u64, be_u16, be_u64).parse(input);
        let (_, (oid, tid, previous, transaction, version_len, data_len)) = parsed.ok()?;
        Some(Self { oid: Oid(oid), tid: Tid(tid), previous, transaction, version_len, data_len })
    }

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        BigEndian::write_u64(&mut bytes[0..8], self.oid.0);
        BigEndian::write_u64(&mut bytes[8..16], self.tid.0);
        BigEndian::write_u64(&mut bytes[16..24], self.previous);
        BigEndian::write_u64(&mut bytes[24..32], self.transaction);
        BigEndian::write_u16(&mut bytes[32..34], self.version_len);
        BigEndian::write_u64(&mut bytes[34..42], self.data_len);
        bytes
    }

    /// Where the next record begins if this one begins at `position`; `None` when that is no position.
    pub fn next_position(&self, position: u64) -> Option<u64> {
        let state_len = if self.data_len == 0 { BACK_POINTER_LEN } else { self.data_len };
        position.checked_add(Self::SIZE)?.checked_add(state_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transaction with user `/ bob` and one object, as ZODB 6.4 wrote it.
    #[test]
    fn headers_survive_the_round_trip() {
        let bytes = b"\x04\x0d\x25\x53\xe4\x44\x44\x44\0\0\0\0\0\0\0\x55 \0\x05\0\0\0\x01";
        let header = TransactionHeader::parse(bytes).expect("a header");
        assert_eq!(header.tid, Tid(0x040d_2553_e444_4444));
        assert_eq!((header.len, header.status, header.full_len()), (0x55, b' ', 29));
        assert_eq!(&header.to_bytes(), bytes);

        let bytes = [&[0; 7][..], &[3], &[0; 7], &[9], &[0; 7], &[4], &[0; 7], &[5], &[0; 2], &[0; 8]].concat();
        let header = DataHeader::parse(&bytes).expect("a header");
        assert_eq!((header.oid, header.tid, header.previous, header.transaction), (Oid(3), Tid(9), 4, 5));
        assert_eq!(header.next_position(100), Some(150));
        assert_eq!(&header.to_bytes()[..], &bytes[..]);
    }

    #[test]
    fn absurd_lengths_give_no_position() {
        let mut bytes = [0; DataHeader::LEN];
        bytes[34..].fill(0xff);
        assert_eq!(DataHeader::parse(&bytes).expect("a header").next_position(4), None);
        assert_eq!(DataHeader::parse(&bytes[1..]), None);
        assert_eq!(TransactionHeader::parse(&bytes[..22]), None);
    }
}
