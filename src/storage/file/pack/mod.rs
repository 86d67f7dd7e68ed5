//! Pack: a new data file without what nobody needs as of a time, put in the place of the old one.
//!
//! In the order in which they come into play:
//!
//! - `pace`, `walk`: progress, throttle and cancelling; reading forward in large steps
//! - `scan`: what was current at the pack time, and which older revisions later ones point back to
//! - `mark`, `agenda`: which objects can be reached
//! - `space`: whether there is room for what stays
//! - `output`, `copy`: the transactions up to the pack time, with what stays of them
//! - `follow`: the later ones, again and again until little is left
//! - `swap`: the new file in the place of the old one
//!
//! All that takes time reads a part of the file that does not change any more, without any lock; loads and commits go on.
//! Commits wait only while the last few transactions are copied and synced and the files change places. Whoever still
//! reads the old file has it open. Until then nothing has changed, and whatever goes wrong only ends the pack.
//!
//! What survives is what survives the original's pack, and the bytes are the same, but that more is kept in the cases
//! named in `mark`, `follow` and `copy`.

mod agenda;
mod copy;
mod follow;
mod mark;
mod output;
mod pace;
mod scan;
mod space;
mod swap;
#[cfg(test)]
mod tests;
mod walk;

use std::path::Path;
use std::sync::Arc;

use roaring::RoaringTreemap;
use tracing::{info, warn};

use self::copy::Copier;
use self::follow::Follower;
use self::mark::{Found, Marking};
use self::output::Output;
use self::pace::Pace;
use self::scan::{AsOf, Targets, scan, scan_later};
pub(super) use self::swap::{Directory, System, recover};
use self::swap::{Names, put_away, remove, swap};
use super::format::FIRST_TRANSACTION;
use super::index::Index;
use super::io::{DataFile, io_error};
use super::lock::LockFile;
use super::read::View;
use super::{FileStorage, Options, State};
use crate::ids::{Oid, Tid};
use crate::storage::{PackHost, PackOutcome, PackPhase, PackReport, PackRequest, Result, Storage, StorageError};

/// The last step is short enough when this much is left for it.
const LITTLE: u64 = 1 << 20;
/// Against commits that come faster than they can be copied.
const MOST_ROUNDS: usize = 20;
/// With more than this the last step gives its turn back; commits wait while it is copied and synced.
const MOST_IN_A_TURN: u64 = 4 << 20;
/// After so many turns the last step is done, however much is left.
const MOST_TURNS: usize = 5;
/// How a storage packs.
pub(super) struct Settings {
    gc: bool,
    keep_old: bool,
    extra_roots: Vec<Oid>,
    rate_bytes: Option<u64>,
}

impl Settings {
    pub fn of(options: &Options) -> Self {
        Self {
            gc: options.pack_gc,
            keep_old: options.pack_keep_old,
            extra_roots: options.pack_extra_roots.clone(),
            rate_bytes: options.pack_rate,
        }
    }
}

/// What is going to stay.
struct Plan {
    as_of: AsOf,
    targets: Targets,
    found: Found,
    /// Objects of which nothing stays but what later transactions point back to.
    left_out: RoaringTreemap,
    /// To copy all would change nothing.
    all_stays: bool,
}

impl FileStorage {
    /// As [`Storage::pack`], with something between pack and directory.
    pub(super) fn pack_in(
        &self,
        request: &PackRequest,
        host: &mut dyn PackHost,
        directory: &dyn Directory,
    ) -> Result<PackReport> {
        let lock = self.held_lock()?;
        if request.stop == Tid::ZERO {
            return Err(StorageError::Refused("Invalid pack time".to_owned()));
        }
        let mut report = PackReport {
            outcome: PackOutcome::NothingToDo,
            bytes_before: self.size(),
            bytes_after: self.size(),
            objects_before: self.len(),
            objects_after: self.len(),
            dangling: 0,
            undecodable: 0,
        };
        if self.is_empty() {
            return Ok(report);
        }
        // The view keeps the old file open until the end of the pack. Whoever reads it is done by then, as a rule, so that
        // it is this thread that waits while the system frees it.
        let (_packing, view) = self.start_packing(request.stop)?;
        let pace = &mut Pace::new(host, self.packing.rate_bytes);
        let Some(plan) = self.plan(&view, request, pace)? else {
            return Ok(report);
        };
        (report.dangling, report.undecodable) = (plan.found.dangling, plan.found.undecodable);
        if plan.all_stays {
            return Ok(report);
        }

        // The last look before the path is used: what is beside it may be somebody else's.
        self.check_place(&lock, &view.file)?;
        let names = Names::of(view.file.path());
        remove(directory, &names.pack)?;
        if names.aside.exists() {
            put_away(directory, &names, true)?;
        }
        space::check(directory, &view, &plan, pace)?;
        let raw = directory.create(&names.pack, &names.data);
        let mut unfinished = Unfinished { directory, path: &names.pack, in_place: false };
        let raw = raw.map_err(|source| io_error("create", &names.pack, source))?;
        let output = Output::new(DataFile::new(raw, names.pack.clone()));
        let Some(mut follower) = Self::copy_first_part(&view, plan, output, pace)? else {
            return Ok(report);
        };
        // Twice: the first sync takes long, and much may come meanwhile.
        for _ in 0..2 {
            self.catch_up(&mut follower, pace)?;
            follower.output.sync()?;
        }
        // What is handed out may be larger than any oid that stays.
        self.oids.lock().remember()?;

        // No index of the old file may meet the new one: the last step removes it, and none is saved until then.
        self.saving.lock().suspended = true;
        let replaced =
            self.take_turns(follower, pace, |follower| self.last_step(follower, &lock, &names, &mut unfinished));
        self.saving.lock().suspended = false;
        if let Err(problem) = self.save_index() {
            warn!(target: "ZODB.FileStorage", "the index could not be saved: {problem}");
        }
        // A large index takes a moment to be freed, a large file seconds; nobody waits for it here.
        drop(replaced?);
        if !unfinished.in_place {
            return Err(refused("the last step of a pack was not run"));
        }
        if let Err(problem) = put_away(directory, &names, self.packing.keep_old) {
            warn!(target: "ZODB.FileStorage", "the pack is done, but not the old file put away: {problem}");
        }
        report.outcome = PackOutcome::Packed;
        (report.bytes_after, report.objects_after) = (self.size(), self.len());
        Ok(report)
    }

    /// Decides what stays; `None` if the pack time says already that there is nothing to do.
    fn plan(&self, view: &View, request: &PackRequest, pace: &mut Pace<'_>) -> Result<Option<Plan>> {
        let mut as_of = scan(view, request.stop, pace)?;
        if as_of.redundant {
            info!(
                target: "ZODB.FileStorage",
                "The database has already been packed to a later time or no changes have been made since the last pack"
            );
            return Ok(None);
        }
        if as_of.end == FIRST_TRANSACTION {
            return Ok(None);
        }
        let (mut targets, mut found, mut left_out) = (Targets::new(), Found::default(), RoaringTreemap::new());
        if request.gc.unwrap_or(self.packing.gc) {
            let mut marking = Marking::new(self, view.clone(), &as_of);
            marking.roots(&self.packing.extra_roots)?;
            targets = scan_later(view, as_of.end, pace, |oid, data| marking.references(oid, data))?;
            for &position in targets.keys() {
                marking.revision(position);
            }
            let reached;
            (reached, found) = marking.follow(pace)?;
            if found.undecodable == 0 {
                as_of.table.retain(|oid| reached.contains(oid.0) || !left_out.insert(oid.0));
            }
        } else {
            targets.append(&mut scan_later(view, as_of.end, pace, |_, _| ())?);
        }
        let all_stays = as_of.plain && as_of.table.len() == as_of.records;
        Ok(Some(Plan { as_of, targets, found, left_out, all_stays }))
    }

    /// Copies what stays up to the pack time; `None` if that saves nothing.
    fn copy_first_part(view: &View, plan: Plan, mut output: Output, pace: &mut Pace<'_>) -> Result<Option<Follower>> {
        let Plan { as_of: AsOf { mut table, end, .. }, mut targets, left_out, .. } = plan;
        let mut magic = [0; 4];
        view.file.read_exact_at(&mut magic, 0)?;
        output.write(&magic)?;
        let mut copier = Copier { view, table: &mut table, targets: &mut targets, output: &mut output, pace };
        copier.copy(FIRST_TRANSACTION, end)?;
        if output.position() == end {
            return Ok(None);
        }
        Ok(Some(Follower::new((end, view), (table, targets), output, left_out)))
    }

    /// Copies what has come, until little is left.
    fn catch_up(&self, follower: &mut Follower, pace: &mut Pace<'_>) -> Result<()> {
        for _ in 0..MOST_ROUNDS {
            let view = self.view()?;
            pace.begin(PackPhase::CatchingUp, follower.left(&view))?;
            follower.copy(&view, Some(pace))?;
            pace.hurry();
            if follower.left(&self.view()?) < LITTLE {
                break;
            }
        }
        Ok(())
    }

    /// Runs the last step when its turn comes and little is left for it. What was voted before the turn, or came during
    /// the last sync, may be much: then the turn is given back and that is copied first, so that commits wait for a moment only.
    fn take_turns(
        &self,
        follower: Follower,
        pace: &mut Pace<'_>,
        mut last_step: impl FnMut(Follower) -> Result<Option<State>>,
    ) -> Result<Option<State>> {
        let (mut follower, mut replaced) = (Some(follower), None);
        for turn in 1..=MOST_TURNS {
            pace.exclusively(&mut || {
                let view = self.view()?;
                if let Some(follower) =
                    follower.take_if(|follower| turn == MOST_TURNS || follower.left(&view) <= MOST_IN_A_TURN)
                {
                    replaced = last_step(follower)?;
                }
                Ok(())
            })?;
            let Some(follower) = &mut follower else { break };
            self.catch_up(follower, pace)?;
            follower.output.sync()?;
        }
        Ok(replaced)
    }

    /// What has to be done while nothing is committed. Answers what readers saw until then.
    fn last_step(
        &self,
        mut follower: Follower,
        lock: &LockFile,
        names: &Names,
        unfinished: &mut Unfinished<'_>,
    ) -> Result<Option<State>> {
        let directory = unfinished.directory;
        let _place = self.take_place()?;
        let view = self.view()?;
        self.check_ours(lock, &view.file, view.end)?;
        follower.copy(&view, None)?;
        follower.output.sync()?;
        remove(directory, &names.index)?;
        directory.sync(&names.index)?;
        // Whoever asks for oids looks for the file that is open, and must find it.
        let no_oids = self.oids.lock();
        swap(directory, names, self.packing.keep_old)?;
        unfinished.in_place = true;
        let end = follower.output.position();
        let file = follower.output.into_file(names.data.clone());
        let replaced = self.replace(file, follower.table, end);
        drop(no_oids);
        directory.sync(&names.data).inspect_err(|problem| {
            self.poison(&format!(
                "after the pack it is unknown which data file is there: {problem}; restart the server"
            ));
        })?;
        Ok(replaced)
    }

    /// Makes the new file what readers see. Answers what they saw until now.
    fn replace(&self, file: DataFile, index: Index, end: u64) -> Option<State> {
        let mut state = self.state.write();
        let new = state.as_ref().map(|old| State { file: Arc::new(file), index, end, last_tid: old.last_tid });
        std::mem::replace(&mut *state, new)
    }

    /// Takes the one place for a pack; answers also what is there to be packed.
    fn start_packing(&self, stop: Tid) -> Result<(Packing<'_>, View)> {
        {
            let mut writing = self.writing.lock();
            if writing.packing.is_some() {
                return Err(refused("Already packing"));
            }
            writing.packing = Some(stop);
        }
        let packing = Packing(self);
        // Only now does no other pack put a new file in the place of this one.
        let view = self.view()?;
        // What comes from now on stays as it is, however late the pack time.
        let stop = stop.min(self.last_transaction());
        self.writing.lock().packing = Some(stop);
        Ok((packing, view))
    }

    /// Whether a pack is under way that makes transaction `tid` a packed one.
    pub(super) fn is_being_packed(&self, tid: Tid) -> bool {
        self.writing.lock().packing.is_some_and(|stop| tid <= stop)
    }

    /// Takes the place of the active transaction.
    fn take_place(&self) -> Result<Place<'_>> {
        let mut writing = self.writing.lock();
        writing.check(self.read_only)?;
        if writing.active {
            return Err(StorageError::Transaction("a transaction was active in the last step of a pack".to_owned()));
        }
        writing.active = true;
        Ok(Place(self))
    }
}

/// While it lives, there is no second pack, and no undo of what is being packed.
struct Packing<'s>(&'s FileStorage);

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        self.0.writing.lock().packing = None;
    }
}

/// While it lives, no transaction can begin.
struct Place<'s>(&'s FileStorage);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.deactivate();
    }
}

/// Removes the new file unless it came into its place.
struct Unfinished<'a> {
    directory: &'a dyn Directory,
    path: &'a Path,
    in_place: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.in_place
            && let Err(problem) = remove(self.directory, self.path)
        {
            warn!(target: "ZODB.FileStorage", "{problem}");
        }
    }
}

fn refused(reason: &str) -> StorageError {
    StorageError::Refused(reason.to_owned())
}
