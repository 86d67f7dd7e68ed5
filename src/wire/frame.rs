//! Frames: four bytes of length, big-endian, then that many bytes.

use bytes::{Buf, Bytes, BytesMut};

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
}

/// Takes the next whole frame from `buffer`, without its length; `None` until all of it is there.
///
/// Reserves nothing: the buffer grows by what arrives, not by what is announced.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let Some((length, body)) = buffer.split_first_chunk() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if body.len() < length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Appends a frame whose body is what `body` appends. A body too long for a frame is dropped, and the
/// answer is false.
pub fn put(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> bool {
    let start = out.len();
    out.extend([0; 4]);
    let begin = out.len();
    body(out);
    let length = out.len().checked_sub(begin).and_then(|length| u32::try_from(length).ok());
    if let (Some(length), Some(prefix)) = (length, out.get_mut(start..begin)) {
        prefix.copy_from_slice(&length.to_be_bytes());
        true
    } else {
        out.truncate(start);
        false
    }
}
