//! Whether there is room beside the data file for the new one. Nothing is written before that is sure, as far as it can be told.

use super::super::format::DataHeader;
use super::super::io::Window;
use super::super::read::View;
use super::agenda::Agenda;
use super::mark::Found;
use super::pace::Pace;
use super::scan::AsOf;
use super::swap::{Directory, Names};
use super::walk::READ_AHEAD;
use super::{Plan, io_error, refused};
use crate::storage::{PackPhase, Result};

/// Free space that a pack leaves alone, for commits that come meanwhile and for the index.
const SPARE_BYTES: u64 = 16 << 20;

/// Refuses a pack whose new file may not fit.
pub(super) fn check(directory: &dyn Directory, view: &View, plan: &Plan, pace: &mut Pace<'_>) -> Result<()> {
    let Plan { as_of, found, .. } = plan;
    let beside = view.file.path();
    let free = directory.free_bytes(beside).map_err(|source| io_error("find the free space beside", beside, source))?;
    let needed = |first_part: u64| first_part + (view.end - as_of.end) + SPARE_BYTES;
    // If the old file fits there is no more to ask; else what stays is counted, where marking has not done that already.
    let counted = found.record_bytes > 0 && found.undecodable == 0;
    let mut needs = needed(if counted { estimate(as_of, found) } else { as_of.end });
    if free < needs && !counted {
        needs = needed(estimate(as_of, &count(view, plan, pace)?));
    }
    if free >= needs {
        return Ok(());
    }
    Err(refused(&format!(
        "a pack of {} needs about {needs} bytes beside it, and {free} are free. Nothing has changed; make room{}",
        beside.display(),
        if Names::of(beside).old.exists() { ", for example by moving the .old file of the last pack away" } else { "" }
    )))
}

/// About how long the transactions up to the pack time are going to be.
fn estimate(as_of: &AsOf, found: &Found) -> u64 {
    // A transaction whose records are read at several times is counted several times.
    let average = as_of.transaction_bytes / as_of.transactions.max(1) + 1;
    found.record_bytes + as_of.transaction_bytes.min(found.transactions.saturating_mul(average))
}

/// Reads the heads of all records that stay.
fn count(view: &View, plan: &Plan, pace: &mut Pace<'_>) -> Result<Found> {
    let Plan { as_of, targets, .. } = plan;
    let mut agenda = Agenda::new(view.end);
    for (_, entries) in as_of.table.buckets() {
        for (_, position) in entries {
            agenda.push(position);
        }
    }
    for &position in targets.keys() {
        agenda.push(position);
    }
    let mut window = Window::new(view.file.clone(), view.end);
    window.set_read_ahead(READ_AHEAD);
    let (mut found, mut done) = (Found::default(), 0);
    pace.begin(PackPhase::Scanning, as_of.table.len())?;
    while let Some(positions) = agenda.take() {
        for position in positions {
            let header = DataHeader::parse(window.bytes(position, DataHeader::SIZE)?);
            let header = header.expect("as many bytes as the header has were read");
            let len = match header.data_len {
                0 => view.data_at(position, header.oid)?.map_or(0, |data| data.len() as u64),
                len => len,
            };
            done += 1;
            pace.step(done, found.count(&header, len))?;
        }
    }
    Ok(found)
}
