//! `Data.fs.index`: the index as it was when it was last saved, so that an open need not read all of `Data.fs`.
//!
//! The file is a row of pickles: the position up to which it is valid, then for each six-byte prefix of oids
//! a pair of the prefix and a string, then `None`. The string has the two-byte suffixes in order and then
//! their six-byte positions. It is written as Python 3 writes it, byte for byte, and read as Python 2 wrote
//! it, too; [`super::index_legacy`] has what was before that.
//!
//! An index file is a shortcut, never a source of truth: whatever is wrong with it, the data file is
//! scanned instead. It is never ahead of data that is durable.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;

use tracing::warn;

use super::format::{FIRST_TRANSACTION, POSITION_LIMIT, TransactionHeader};
use super::index::Index;
use super::index_check::{SMALLEST_END, rewound_for_python};
use super::index_legacy;
use super::io::{replace_durably, with_suffix};
use super::read::View;
use crate::storage::{Result, StorageError};

/// 65 536 suffixes with their positions.
const LONGEST_BUCKET: u64 = 65_536 * 8;

/// An index and up to where in the data file it is valid.
pub(super) struct Saved {
    pub index: Index,
    pub end: u64,
}

/// Why an index file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Content(&'static str),
    #[error("a file of an older kind")]
    Older,
}

/// Writes the index of a data file that is valid up to the end of `view`, or the one before it that Python takes.
///
/// But not that of a file which has transactions and no object: Python looks for the newest record, runs
/// past the beginning of the file, and cannot open it.
pub(super) fn save(index: &Index, view: &View) -> Result<()> {
    if index.len() == 0 && view.end >= SMALLEST_END {
        return Ok(());
    }
    let earlier = match rewound_for_python(index, view) {
        // Damage that nobody has asked for. It is for those to tell who do.
        Err(StorageError::Corrupted { .. }) => None,
        earlier => earlier?,
    };
    let (index, end) = earlier.as_ref().map_or((index, view.end), |earlier| (&earlier.index, earlier.end));
    let path = with_suffix(view.file.path(), ".index");
    let temporary = with_suffix(&path, ".index_tmp");
    replace_durably(&path, &temporary, |file| write(file, index, end))
}

/// Reads the index of a data file; `None` if there is none that can be used.
pub(super) fn load(data_file: &Path) -> Option<Saved> {
    let path = with_suffix(data_file, ".index");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(target: "ZODB.FileStorage", "loading index {}: {error}", path.display());
            return None;
        }
    };
    let mut input = BufReader::with_capacity(1 << 16, file);
    let saved = match read(&mut input) {
        Err(IndexFileError::Older) => {
            // All of it in memory, three times over: only once, then it is written in today's form.
            let mut content = Vec::new();
            let read = input.rewind().and_then(|()| input.read_to_end(&mut content));
            read.map_err(IndexFileError::Io).and_then(|_| index_legacy::read(&content.into()))
        }
        saved => saved,
    };
    match saved {
        Ok(saved) => Some(saved),
        Err(error) => {
            warn!(target: "ZODB.FileStorage", "loading index {}: {error}", path.display());
            None
        }
    }
}

fn write(out: &mut dyn Write, index: &Index, end: u64) -> io::Result<()> {
    write_position(out, end)?;
    let mut bucket = Vec::new();
    for (prefix, entries) in index.buckets() {
        bucket.clear();
        for (suffix, _) in entries.clone() {
            bucket.extend_from_slice(&suffix.to_be_bytes());
        }
        for (_, position) in entries {
            bucket.extend_from_slice(&low_bytes(position));
        }
        out.write_all(&[PROTO, 3, SHORT_BINBYTES, 6])?;
        out.write_all(&low_bytes(prefix))?;
        if let Ok(len) = u8::try_from(bucket.len()) {
            out.write_all(&[SHORT_BINBYTES, len])?;
        } else {
            let len = u32::try_from(bucket.len()).map_err(io::Error::other)?;
            out.write_all(&[BINBYTES])?;
            out.write_all(&len.to_le_bytes())?;
        }
        out.write_all(&bucket)?;
        out.write_all(&[TUPLE2, STOP])?;
    }
    out.write_all(&[PROTO, 3, NONE, STOP])
}

/// An integer in the shortest form, as Python pickles it.
fn write_position(out: &mut dyn Write, position: u64) -> io::Result<()> {
    out.write_all(&[PROTO, 3])?;
    if let Ok(position) = u8::try_from(position) {
        out.write_all(&[BININT1, position])?;
    } else if let Ok(position) = u16::try_from(position) {
        out.write_all(&[BININT2])?;
        out.write_all(&position.to_le_bytes())?;
    } else if let Ok(position) = i32::try_from(position) {
        out.write_all(&[BININT])?;
        out.write_all(&position.to_le_bytes())?;
    } else {
        // Two's complement: a set top bit needs a zero byte after it.
        let len = (u64::BITS - position.leading_zeros()) / 8 + 1;
        let bytes = u128::from(position).to_le_bytes();
        let len = u8::try_from(len).map_err(io::Error::other)?;
        out.write_all(&[LONG1, len])?;
        out.write_all(bytes.get(..usize::from(len)).unwrap_or(&bytes))?;
    }
    out.write_all(&[STOP])
}

fn low_bytes(number: u64) -> [u8; 6] {
    let [_, _, low @ ..] = number.to_be_bytes();
    low
}

fn read(input: &mut impl BufRead) -> Result<Saved, IndexFileError> {
    let Pickle::Position(end) = read_pickle(input)? else {
        return Err(IndexFileError::Older);
    };
    let mut index = Index::default();
    loop {
        match read_pickle(input)? {
            Pickle::Bucket { prefix, entries } => read_bucket(&mut index, end, &prefix, &entries)?,
            Pickle::End => return Ok(Saved { index, end }),
            _ => return Err(IndexFileError::Content("not the pickles of an index")),
        }
    }
}

/// Adds one pair of prefix and string to an index that is valid up to `end`.
pub(super) fn read_bucket(index: &mut Index, end: u64, prefix: &[u8], bucket: &[u8]) -> Result<(), IndexFileError> {
    let Ok(prefix) = <[u8; 6]>::try_from(prefix) else {
        return Err(IndexFileError::Content("a prefix of the wrong length"));
    };
    if !bucket.len().is_multiple_of(8) {
        return Err(IndexFileError::Content("a bucket of the wrong length"));
    }
    let (suffixes, positions) = bucket.split_at(bucket.len() / 4);
    let (suffixes, positions) = (suffixes.as_chunks::<2>().0, positions.as_chunks::<6>().0);
    let entries = suffixes.iter().zip(positions);
    let entries = entries.map(|(suffix, position)| (u16::from_be_bytes(*suffix), number(*position)));
    let in_file = FIRST_TRANSACTION + TransactionHeader::SIZE..end;
    if !entries.clone().all(|(_, position)| in_file.contains(&position)) {
        return Err(IndexFileError::Content("a position outside of the data file"));
    }
    if !index.insert_bucket(number(prefix), entries) {
        return Err(IndexFileError::Content("oids out of order"));
    }
    Ok(())
}

pub(super) fn number(low: [u8; 6]) -> u64 {
    low.into_iter().fold(0, |number, byte| number << 8 | u64::from(byte))
}

/// One of the pickles of an index file.
enum Pickle {
    Position(u64),
    Bucket { prefix: Vec<u8>, entries: Vec<u8> },
    End,
    Other,
}

const PROTO: u8 = 0x80;
const STOP: u8 = b'.';
const NONE: u8 = b'N';
const BININT: u8 = b'J';
const BININT1: u8 = b'K';
const BININT2: u8 = b'M';
const LONG: u8 = b'L';
const LONG1: u8 = 0x8a;
const SHORT_BINBYTES: u8 = b'C';
const BINBYTES: u8 = b'B';
const SHORT_BINSTRING: u8 = b'U';
const BINSTRING: u8 = b'T';
const MARK: u8 = b'(';
const TUPLE: u8 = b't';
const TUPLE2: u8 = 0x86;
const BINPUT: u8 = b'q';
const LONG_BINPUT: u8 = b'r';

/// Reads one pickle, as long as it is one of the few that an index file has. The strings are most of
/// the file, so they are read straight from it, not by way of a tree of values.
fn read_pickle(input: &mut impl BufRead) -> Result<Pickle, IndexFileError> {
    let mut position = None;
    let mut none = false;
    let mut strings = Vec::new();
    loop {
        match u8::from_le_bytes(read_array(input)?) {
            STOP => break,
            PROTO | BINPUT => drop(read_array::<1>(input)?),
            LONG_BINPUT => drop(read_array::<4>(input)?),
            MARK | TUPLE | TUPLE2 => {}
            NONE => none = true,
            BININT1 => position = Some(u64::from(u8::from_le_bytes(read_array(input)?))),
            BININT2 => position = Some(u64::from(u16::from_le_bytes(read_array(input)?))),
            BININT => position = u64::try_from(i32::from_le_bytes(read_array(input)?)).ok(),
            LONG1 => position = read_long1(input)?,
            LONG => position = read_long_line(input)?,
            SHORT_BINBYTES | SHORT_BINSTRING if strings.len() < 2 => {
                let len = u8::from_le_bytes(read_array(input)?);
                strings.push(read_string(input, u64::from(len))?);
            }
            BINBYTES | BINSTRING if strings.len() < 2 => {
                let len = u32::from_le_bytes(read_array(input)?);
                strings.push(read_string(input, u64::from(len))?);
            }
            _ => return Ok(Pickle::Other),
        }
    }
    Ok(match (position, none, <[Vec<u8>; 2]>::try_from(strings)) {
        (None, false, Ok([prefix, entries])) => Pickle::Bucket { prefix, entries },
        (Some(position), false, Err(strings)) if strings.is_empty() && position < POSITION_LIMIT => {
            Pickle::Position(position)
        }
        (None, true, Err(strings)) if strings.is_empty() => Pickle::End,
        _ => Pickle::Other,
    })
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_string(input: &mut impl Read, len: u64) -> Result<Vec<u8>, IndexFileError> {
    if len > LONGEST_BUCKET {
        return Err(IndexFileError::Content("a string that is too long"));
    }
    let mut string = Vec::new();
    input.take(len).read_to_end(&mut string)?;
    if string.len() as u64 != len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(string)
}

fn read_long1(input: &mut impl Read) -> io::Result<Option<u64>> {
    let len = usize::from(u8::from_le_bytes(read_array(input)?));
    let mut bytes = [0; 255];
    let number = bytes.get_mut(..len).unwrap_or_default();
    input.read_exact(number)?;
    // Little-endian two's complement; a position is never negative.
    let mut low = [0; 8];
    for (at, &byte) in number.iter().enumerate() {
        match low.get_mut(at) {
            Some(low) => *low = byte,
            None if byte == 0 => {}
            None => return Ok(None),
        }
    }
    let negative = number.last().is_some_and(|&byte| byte >= 0x80);
    Ok((!negative).then_some(u64::from_le_bytes(low)))
}

fn read_long_line(input: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    input.take(32).read_until(b'\n', &mut line)?;
    Ok(str::from_utf8(&line).ok().and_then(|line| line.trim_end().trim_end_matches('L').parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Oid;

    fn written(index: &Index, end: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, index, end).expect("write to memory");
        bytes
    }

    fn entries(index: &Index) -> Vec<(u64, u16, u64)> {
        index.buckets().flat_map(|(prefix, entries)| entries.map(move |(oid, at)| (prefix, oid, at))).collect()
    }

    /// Bytes recorded from `fsIndex.save` of ZODB 6.4 on Python 3.11.
    #[test]
    fn written_as_python_writes_it() {
        let mut index = Index::default();
        assert_eq!(written(&index, 4), b"\x80\x03K\x04.\x80\x03N.");
        index.insert(Oid(1), 27);
        index.insert(Oid(2), 0x0102_0304_0506);
        index.insert(Oid(0x1_0000), 99);
        let expected = b"\x80\x03M)\x01.\
            \x80\x03C\x06\0\0\0\0\0\0C\x10\0\x01\0\x02\0\0\0\0\0\x1b\x01\x02\x03\x04\x05\x06\x86.\
            \x80\x03C\x06\0\0\0\0\0\x01C\x08\0\0\0\0\0\0\0c\x86.\
            \x80\x03N.";
        assert_eq!(written(&index, 297), expected);
    }

    #[test]
    fn long_buckets_have_a_long_length() {
        let mut index = Index::default();
        (0..32).for_each(|oid| index.insert(Oid(oid), 100 + oid));
        let bytes = written(&index, 1000);
        assert_eq!(bytes.get(6..20), Some(&b"\x80\x03C\x06\0\0\0\0\0\0B\0\x01\0"[..]));
        let saved = read(&mut bytes.as_slice()).expect("read");
        assert_eq!((entries(&saved.index), saved.end), (entries(&index), 1000));
    }

    #[test]
    fn positions_of_every_size() {
        for (position, pickled) in [
            (255, &b"K\xff."[..]),
            (256, b"M\0\x01."),
            (65_536, b"J\0\0\x01\0."),
            (0x7fff_ffff, b"J\xff\xff\xff\x7f."),
            (0x8000_0000, b"\x8a\x05\0\0\0\x80\0."),
            (0x1_0000_0000, b"\x8a\x05\0\0\0\0\x01."),
        ] {
            let bytes = written(&Index::default(), position);
            assert_eq!(bytes.get(2..2 + pickled.len()), Some(pickled), "{position}");
            assert_eq!(read(&mut bytes.as_slice()).expect("read").end, position);
        }
    }

    #[test]
    fn read_as_python_2_wrote_it() {
        let bytes = b"L5000000000L\n.(U\x06\0\0\0\0\0\0U\x08\0\x07\0\0\0\0\0\xfft.N.";
        let saved = read(&mut bytes.as_slice()).expect("read");
        assert_eq!((entries(&saved.index), saved.end), (vec![(0, 7, 255)], 5_000_000_000));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut index = Index::default();
        index.insert(Oid(1), 500);
        let good = written(&index, 1000);
        for len in 0..good.len() {
            assert!(read(&mut &good[..len]).is_err(), "cut at {len}");
        }
        assert!(read(&mut written(&index, 400).as_slice()).is_err(), "a position behind the end");
        let twice = b"M\0\x01.(U\x06\0\0\0\0\0\0U\x10\0\x07\0\x07\0\0\0\0\0\xff\0\0\0\0\0\xfft.N.";
        assert!(read(&mut twice.as_slice()).is_err(), "an oid that comes twice");
        let huge = b"M\0\x01.(U\x06\0\0\0\0\0\0T\xff\xff\xff\xff";
        assert!(read(&mut huge.as_slice()).is_err(), "a length without content");
    }
}
