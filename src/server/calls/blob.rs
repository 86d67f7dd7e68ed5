//! Blobs to and from a client, in chunks: the content of one revision may be larger than memory.
//!
//! What arrives is collected up to [`WRITE_BYTES`] and then written in a thread of the blocking pool, since a disk that is
//! behind lets writers wait; meanwhile no further request of this client is taken up. The file belongs to the
//! transaction from its first byte, so it is gone when that ends without a finish.
//!
//! What is sent is read in such threads, too, a few chunks at a time, and only after the client has taken all that
//! was queued for it. Blobs of one client are sent one after another; its other replies go in between.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::args::Args;
use super::commit::{Transaction, collecting, logged};
use super::load::oid_value;
use crate::critical;
use crate::ids::{Oid, Tid};
use crate::pickle::Value;
use crate::server::outbox::Outbox;
use crate::server::served::Served;
use crate::server::session::{Answer, Beside, Call, End, Registration, Session, off_thread, printable, tid_value};
use crate::storage::blob::{BlobDirectory, StagedBlob};
use crate::storage::{self, StorageError};
use crate::wire::dialect::Dialect;
use crate::wire::fault::Fault;

/// The chunks in which content is sent; the original's size.
const CHUNK_BYTES: usize = 59_000;

/// How many chunks are read and queued at a time.
const CHUNKS_AT_A_TIME: usize = 8;

/// How much of a blob is collected before it is written to its file.
const WRITE_BYTES: usize = 1 << 20;

/// How many blobs a client may ask for before it has got the first; above this its requests wait.
const MOST_DOWNLOADS: usize = 1000;

/// The blob that a client is sending, if it is; one at a time.
#[derive(Debug, Default)]
pub enum Upload {
    /// None.
    #[default]
    None,
    /// More is to come.
    Arriving(Partial),
    /// A thread has it.
    Writing,
}

/// Content that has not arrived as a whole.
#[derive(Debug, Default)]
pub struct Partial {
    /// The file, once there is one.
    file: Option<StagedBlob>,
    unwritten: Vec<u8>,
}

/// What a thread has written.
pub enum Arrived {
    /// A part.
    Part(Partial),
    /// All of the content of this record. A file of the client's own may be missing.
    All(Record, storage::Result<StagedBlob>),
}

/// The revision that a blob belongs to.
pub struct Record {
    oid: Oid,
    serial: Tid,
    data: Bytes,
}

impl Upload {
    /// Whether a thread has it.
    pub fn is_writing(&self) -> bool {
        matches!(self, Self::Writing)
    }

    /// Leaves it to a thread.
    fn take(&mut self) -> Option<Partial> {
        match std::mem::take(self) {
            Self::Arriving(partial) => {
                *self = Self::Writing;
                Some(partial)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Partial {
    /// Writes what is not in the file yet; returns the file and the empty buffer.
    fn write(mut self, blobs: &BlobDirectory) -> storage::Result<(StagedBlob, Vec<u8>)> {
        let mut file = match self.file {
            Some(file) => file,
            None => blobs.stage()?,
        };
        file.append(&self.unwritten).map_err(|source| StorageError::Io {
            action: "write",
            path: file.path().to_owned(),
            source,
        })?;
        self.unwritten.clear();
        self.unwritten.shrink_to(2 * WRITE_BYTES);
        Ok((file, self.unwritten))
    }
}

fn no_blobs() -> Fault {
    Fault::Type("Blobs are not supported".to_owned())
}

/// The blobs of a storage that has some.
fn blobs(served: &Served) -> Result<&BlobDirectory, Fault> {
    served.storage.blobs().ok_or_else(no_blobs)
}

/// The upload of the client's transaction. The original looks for a transaction only at the end of the upload; here a
/// file never belongs to nobody.
fn upload<'a>(session: &'a mut Session, registration: &Registration) -> Result<&'a mut Upload, Fault> {
    blobs(&registration.served)?;
    if registration.read_only {
        return Err(Fault::ReadOnly);
    }
    match &mut session.transaction {
        Transaction::Collecting(collected) => Ok(&mut collected.upload),
        _ => Err(Fault::StorageTransaction("a blob needs a transaction that has begun and is not voted".to_owned())),
    }
}

fn not_started() -> Fault {
    Fault::Type("storeBlobStart() comes first".to_owned())
}

/// `storeBlobStart()`
pub fn start(session: &mut Session, registration: &Registration, args: Args) -> Answer {
    args.end()?;
    let upload = upload(session, registration)?;
    if !matches!(upload, Upload::None) {
        return Err(Fault::Assertion(None));
    }
    *upload = Upload::Arriving(Partial::default());
    Ok(Value::None)
}

/// `storeBlobChunk(bytes)`; the answer, if it does not wait for the disk.
pub fn chunk(
    session: &mut Session,
    registration: &Registration,
    call: &Call,
    mut args: Args,
) -> Result<Option<Value>, Fault> {
    let bytes = args.bytes()?;
    args.end()?;
    let upload = upload(session, registration)?;
    let Upload::Arriving(arriving) = upload else { return Err(not_started()) };
    arriving.unwritten.extend_from_slice(&bytes);
    if arriving.unwritten.len() < WRITE_BYTES {
        return Ok(Some(Value::None));
    }
    let partial = upload.take().ok_or_else(not_started)?;
    write(session, registration, call, move |blobs| {
        let (file, unwritten) = partial.write(blobs)?;
        Ok(Arrived::Part(Partial { file: Some(file), unwritten }))
    });
    Ok(None)
}

/// `storeBlobEnd(oid, serial, data, id)`
pub fn end(session: &mut Session, registration: &Registration, call: &Call, mut args: Args) -> Result<(), Fault> {
    let (record, id) = (Record::of(&mut args)?, args.value()?);
    args.end()?;
    let partial = collecting(session, registration, &id)?.upload.take().ok_or_else(not_started)?;
    write(session, registration, call, move |blobs| {
        let (mut file, _) = partial.write(blobs)?;
        file.complete().map_err(|source| StorageError::Io { action: "sync", path: file.path().to_owned(), source })?;
        Ok(Arrived::All(record, Ok(file)))
    });
    Ok(())
}

/// `storeBlobShared(oid, serial, data, filename, id)`: the client has put the file beside the blob's revisions itself.
pub fn shared(session: &mut Session, registration: &Registration, call: &Call, mut args: Args) -> Result<(), Fault> {
    let (record, name, id) = (Record::of(&mut args)?, args.string()?, args.value()?);
    args.end()?;
    let collected = collecting(session, registration, &id)?;
    blobs(&registration.served)?;
    if !matches!(collected.upload, Upload::None) {
        return Err(Fault::Assertion(None));
    }
    collected.upload = Upload::Writing;
    let name = String::from_utf8_lossy(&name).into_owned();
    let label = session.label.clone();
    write(session, registration, call, move |blobs| match blobs.adopt(record.oid, &name) {
        Err(error @ StorageError::BlobName(_)) => {
            critical!(
                target: "ZEO.StorageServer",
                "({label}) We're under attack! (bad filename to storeBlobShared, '{}')",
                printable(&name)
            );
            Err(error)
        }
        // A file that is missing is for the client to hear of, at the vote: its directory may be another one.
        adopted => Ok(Arrived::All(record, adopted)),
    });
    Ok(())
}

impl Record {
    fn of(args: &mut Args) -> Result<Self, Fault> {
        Ok(Self { oid: args.oid()?, serial: args.optional_tid()?.unwrap_or_default(), data: args.bytes()? })
    }
}

/// Runs `work` on the blobs in a thread. The upload is in its hands until the outcome is taken up.
fn write(
    session: &mut Session,
    registration: &Registration,
    call: &Call,
    work: impl FnOnce(&BlobDirectory) -> storage::Result<Arrived> + Send + 'static,
) {
    let (served, call) = (Arc::clone(&registration.served), call.clone());
    session.beside.spawn_blocking(move || {
        let outcome = blobs(&served).and_then(|blobs| Ok(work(blobs)?));
        Beside::Written(call, outcome)
    });
}

impl Session {
    /// What had arrived of a blob has been written, or could not be.
    pub(in crate::server) fn written(&mut self, call: &Call, outcome: Result<Arrived, Fault>) -> Result<(), End> {
        let Transaction::Collecting(collected) = &mut self.transaction else { return Ok(()) };
        collected.upload = Upload::None;
        let answer = match outcome {
            Ok(Arrived::Part(partial)) => {
                collected.upload = Upload::Arriving(partial);
                Ok(Value::None)
            }
            Ok(Arrived::All(record, Ok(content))) => {
                logged(collected.log.store_blob(record.oid, record.serial, &record.data, Arc::new(content)))
            }
            Ok(Arrived::All(record, Err(missing))) => {
                collected.log.fail_later(record.oid, missing);
                Ok(Value::None)
            }
            Err(fault) => Err(fault),
        };
        self.reply(call, answer)
    }

    /// A blob has been sent, or cannot be: the next one's turn.
    pub(in crate::server) fn sent(&mut self, call: &Call, answer: Answer) -> Result<(), End> {
        self.downloads.is_sending = false;
        self.send_next();
        self.reply(call, answer)
    }

    fn send_next(&mut self) {
        if self.downloads.is_sending {
            return;
        }
        let Some((call, download)) = self.downloads.waiting.pop_front() else { return };
        self.downloads.is_sending = true;
        let outbox = Arc::clone(&self.outbox);
        self.beside.spawn(async move {
            let answer = download.send(&outbox).await.map(|()| Value::None);
            Beside::Sent(call, answer)
        });
    }
}

/// The blobs that a client has asked for and has not got.
#[derive(Default)]
pub struct Downloads {
    is_sending: bool,
    waiting: VecDeque<(Call, Download)>,
}

impl Downloads {
    /// Whether the client may ask for more.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MOST_DOWNLOADS
    }
}

/// A blob on its way to a client.
struct Download {
    served: Arc<Served>,
    dialect: Dialect,
    oid: Oid,
    serial: Tid,
    /// Opened when its turn comes; with its length.
    content: Option<(File, u64)>,
}

/// `sendBlob(oid, serial)`: calls `receiveBlobStart`, `receiveBlobChunk`, `receiveBlobStop`; then the reply, `None`.
pub fn send(session: &mut Session, registration: &Registration, call: &Call, mut args: Args) -> Result<(), Fault> {
    let (oid, serial) = (args.oid()?, args.tid()?);
    args.end()?;
    blobs(&registration.served)?;
    debug!(target: "ZEO.StorageServer", "({}) Blob requested {oid}, {serial}", session.label);
    let (served, dialect) = (Arc::clone(&registration.served), session.dialect);
    let download = Download { served, dialect, oid, serial, content: None };
    session.downloads.waiting.push_back((call.clone(), download));
    session.send_next();
    Ok(())
}

impl Download {
    /// Queues the content at the pace at which the client takes it.
    async fn send(mut self, outbox: &Outbox) -> Result<(), Fault> {
        loop {
            // Read while the client takes what was read before.
            let (download, step) = off_thread(move || {
                let step = self.next_frames();
                (self, step)
            })
            .await;
            self = download;
            let (frames, is_last) = step?;
            outbox.room().await;
            outbox.push(|out| {
                if out.is_empty() {
                    *out = frames;
                } else {
                    out.extend_from_slice(&frames);
                }
            });
            if is_last {
                return Ok(());
            }
        }
    }

    /// The next frames, and whether there will be no more.
    fn next_frames(&mut self) -> Result<(Vec<u8>, bool), Fault> {
        let blobs = blobs(&self.served)?;
        let mut frames = Vec::new();
        let ids = [oid_value(self.oid), tid_value(self.serial)];
        let (file, length) = if let Some(content) = &mut self.content {
            content
        } else {
            self.dialect.put_call(&mut frames, "receiveBlobStart", &ids);
            self.content.insert(blobs.open_revision(self.oid, self.serial)?)
        };
        let expected = usize::try_from(*length).unwrap_or(usize::MAX).min(CHUNKS_AT_A_TIME * CHUNK_BYTES);
        frames.reserve(expected + expected / 100 + 512);
        for _ in 0..CHUNKS_AT_A_TIME {
            let chunk = read_chunk(file).map_err(|source| StorageError::Io {
                action: "read a blob",
                path: blobs.path().to_owned(),
                source,
            })?;
            let is_last = chunk.len() < CHUNK_BYTES;
            if !chunk.is_empty() {
                let [oid, serial] = ids.clone();
                self.dialect.put_call(&mut frames, "receiveBlobChunk", &[oid, serial, Value::Bytes(chunk.into())]);
            }
            if is_last {
                self.dialect.put_call(&mut frames, "receiveBlobStop", &ids);
                return Ok((frames, true));
            }
        }
        Ok((frames, false))
    }
}

/// The next chunk; a short one is the last, and may be empty.
fn read_chunk(file: &mut File) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}
