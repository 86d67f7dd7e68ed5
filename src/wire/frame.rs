//! Frames: four bytes of length, big-endian, then that many bytes. Once a client has authenticated, the highest bit of the
//! length is set, and a code of [`MAC_BYTES`] stands before the body, which the length does not count.

use bytes::{Buf, Bytes, BytesMut};

use super::mac::{MAC_BYTES, RunningMac};

/// The longest frame of a client that has not registered: the handshake's answer, `register`, a label.
pub const LIMIT_BEFORE_REGISTRATION: usize = 1 << 16;

/// The longest frame of a registered client. One frame holds a whole object record, and the
/// original knows no limit.
pub const LIMIT: usize = 1 << 30;

/// A frame that is refused. The connection is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is above the limit.
    #[error("a frame of {length} bytes, where at most {limit} are accepted")]
    TooLong {
        /// What the client announced.
        length: usize,
        /// What is accepted of it now.
        limit: usize,
    },
    /// A code in a frame, though no key has been agreed on.
    #[error("a frame with a message authentication code, though the client has not authenticated")]
    UnexpectedMac,
    /// A key has been agreed on, and there is no code.
    #[error("a frame without message authentication code, after the client has authenticated")]
    NoMac,
    /// The frame was not made by the one who authenticated, or is not in its place.
    #[error("a frame with a wrong message authentication code")]
    WrongMac,
}

/// The bit of the length that says that a code follows.
const MAC_FLAG: u32 = 1 << 31;

/// Takes the next whole frame from `buffer`, without its length; `None` until all of it is there.
///
/// Reserves nothing: the buffer grows by what arrives, not by what is announced.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let Some((prefix, body)) = buffer.split_first_chunk() else {
        return Ok(None);
    };
    let prefix = u32::from_be_bytes(*prefix);
    if prefix & MAC_FLAG != 0 {
        return Err(FrameError::UnexpectedMac);
    }
    let length = checked_length(prefix, limit)?;
    if body.len() < length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// As [`take`], of a client that has authenticated: each frame has a code, which `mac` must accept.
pub fn take_sealed(buffer: &mut BytesMut, limit: usize, mac: &mut RunningMac) -> Result<Option<Bytes>, FrameError> {
    let Some((prefix, rest)) = buffer.split_first_chunk() else {
        return Ok(None);
    };
    let prefix = u32::from_be_bytes(*prefix);
    if prefix & MAC_FLAG == 0 {
        return Err(FrameError::NoMac);
    }
    let length = checked_length(prefix ^ MAC_FLAG, limit)?;
    let Some(body) = rest.get(MAC_BYTES..).and_then(|rest| rest.get(..length)) else {
        return Ok(None);
    };
    if !mac.accepts(body, rest.get(..MAC_BYTES).unwrap_or_default()) {
        return Err(FrameError::WrongMac);
    }
    buffer.advance(4);
    buffer.advance(MAC_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn checked_length(prefix: u32, limit: usize) -> Result<usize, FrameError> {
    let length = usize::try_from(prefix).unwrap_or(usize::MAX);
    if length > limit { Err(FrameError::TooLong { length, limit }) } else { Ok(length) }
}

/// Gives a code to each of the whole frames in `out` from `start` on.
pub fn seal(out: &mut Vec<u8>, start: usize, mac: &mut RunningMac) {
    let plain = out.split_off(start);
    let mut rest = &plain[..];
    while let Some((prefix, behind)) = rest.split_first_chunk() {
        let prefix = u32::from_be_bytes(*prefix);
        let length = usize::try_from(prefix).unwrap_or(usize::MAX);
        let (body, next) = behind.split_at_checked(length).unwrap_or((behind, &[]));
        out.extend_from_slice(&(prefix | MAC_FLAG).to_be_bytes());
        out.extend_from_slice(&mac.seal(body));
        out.extend_from_slice(body);
        rest = next;
    }
    debug_assert!(rest.is_empty(), "frames are appended as a whole");
}

/// Appends a frame whose body is what `body` appends. A body too long for a frame is dropped, and the
/// answer is false.
pub fn put(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> bool {
    let start = out.len();
    out.extend([0; 4]);
    let begin = out.len();
    body(out);
    let length = out
        .len()
        .checked_sub(begin)
        .and_then(|length| u32::try_from(length).ok())
        .filter(|length| length & MAC_FLAG == 0);
    if let (Some(length), Some(prefix)) = (length, out.get_mut(start..begin)) {
        prefix.copy_from_slice(&length.to_be_bytes());
        true
    } else {
        out.truncate(start);
        false
    }
}
