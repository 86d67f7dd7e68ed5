//! A pack as the server runs it: beside everything else, told of in the log and in the statistics, and over as soon
//! as the server stops. Whether a storage may be packed, and what that means, is the storage's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tracing::{info, warn};

use super::served::{Served, integer};
use crate::ids::Tid;
use crate::pickle::Value;
use crate::storage::{PackHost, PackOutcome, PackPhase, PackProgress, PackReport, PackRequest, Result, StorageError};
use crate::sync::Mutex;

/// How often the log says how far a pack is.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The packs of one storage: the one under way, and others that will be refused.
#[derive(Debug, Default)]
pub struct Packs {
    /// Held shared by every pack, and alone by whoever waits for the last one.
    running: tokio::sync::RwLock<()>,
    stopping: AtomicBool,
    underway: Mutex<Option<Underway>>,
}

#[derive(Clone, Copy, Debug)]
struct Underway {
    progress: PackProgress,
    /// In seconds since 1970.
    started: f64,
}

impl Packs {
    /// How far the pack is, for the statistics; `None` while there is none.
    pub fn status(&self) -> Option<Value> {
        let Underway { progress, started } = (*self.underway.lock())?;
        Some(Value::Dict(vec![
            (Value::native("phase"), Value::native(name(progress.phase))),
            (Value::native("done"), integer(progress.done)),
            (Value::native("total"), integer(progress.total)),
            (Value::native("started"), Value::Float(started)),
        ]))
    }

    /// Ends the pack under way and every later one.
    pub fn give_up(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// As [`give_up`](Self::give_up), and waits for it.
    pub async fn stop(&self) {
        self.give_up();
        drop(self.running.write().await);
    }

    fn must_go_on(&self) -> Result<()> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(StorageError::Refused("the server stops; the pack is given up".to_owned()));
        }
        Ok(())
    }
}

/// Packs as of `stop`. Blocks for as long as that takes: for a thread of the blocking pool.
pub fn pack(served: &Arc<Served>, stop: Tid) -> Result<()> {
    let _running = served.packs.running.blocking_read();
    served.packs.must_go_on()?;
    let mut host = Host::new(served);
    let report = Arc::clone(&served.storage).pack(&PackRequest { stop, gc: None }, &mut host)?;
    tell(&served.name, stop, &report, host.began.elapsed());
    Ok(())
}

fn tell(name: &str, stop: Tid, report: &PackReport, time: Duration) {
    match report.outcome {
        PackOutcome::NothingToDo => {
            info!(target: "ZEO.StorageServer", "storage '{name}': nothing to pack as of {stop}");
        }
        PackOutcome::Packed => info!(
            target: "ZEO.StorageServer",
            "storage '{name}' packed as of {stop}: {} bytes, before {}; {} objects, before {}; took {:.1} seconds",
            report.bytes_after,
            report.bytes_before,
            report.objects_after,
            report.objects_before,
            time.as_secs_f64(),
        ),
    }
    if report.dangling > 0 || report.undecodable > 0 {
        warn!(
            target: "ZEO.StorageServer",
            "storage '{name}': while packing, {} objects that are referred to and do not exist and {} records whose \
             references cannot be read were found; look at the database with fsrefs",
            report.dangling,
            report.undecodable,
        );
    }
}

fn name(phase: PackPhase) -> &'static str {
    match phase {
        PackPhase::Scanning => "scanning",
        PackPhase::Marking => "marking",
        PackPhase::Copying => "copying",
        PackPhase::CatchingUp => "catching up",
        PackPhase::RemovingBlobs => "removing blobs",
    }
}

/// The server's part in one pack.
struct Host<'a> {
    served: &'a Served,
    started: f64,
    began: Instant,
    /// What was told last, and when that part began.
    part: Option<(PackProgress, Instant)>,
    told: Instant,
}

impl<'a> Host<'a> {
    fn new(served: &'a Served) -> Self {
        let now = Instant::now();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { served, started, began: now, part: None, told: now }
    }

    fn tell(&mut self, progress: PackProgress) {
        let now = Instant::now();
        let since = match self.part {
            Some((last, since)) if goes_on(last, progress) => since,
            _ => now,
        };
        self.part = Some((progress, since));
        if now - self.told >= LOG_INTERVAL {
            self.told = now;
            let (name, how_far) = (&self.served.name, how_far(progress, now - since));
            info!(target: "ZEO.StorageServer", "storage '{name}': packing, {how_far}");
        }
    }
}

/// Whether it is still the same part, of those that a phase may have one after another.
fn goes_on(last: PackProgress, progress: PackProgress) -> bool {
    (last.phase, last.total) == (progress.phase, progress.total) && last.done <= progress.done
}

/// For a person. The time left is a guess from that since the part began, as soon as there is something to guess from.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn how_far(progress: PackProgress, elapsed: Duration) -> String {
    let PackProgress { phase, done, total } = progress;
    let (phase, percent) = (name(phase), 100.0 * done as f64 / total.max(1) as f64);
    if done == 0 || elapsed.is_zero() {
        return format!("{phase}: {percent:.0}%");
    }
    let left = elapsed.as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
    format!("{phase}: {percent:.0}%, about {left:.0} seconds left for this part")
}

impl PackHost for Host<'_> {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let place = self.served.commit_lock.ask();
        let turn = Handle::current().block_on(place.turn());
        self.served.packs.must_go_on()?;
        let done = last_step();
        drop(turn);
        done
    }

    fn progress(&mut self, progress: PackProgress) -> Result<()> {
        self.served.packs.must_go_on()?;
        *self.served.packs.underway.lock() = Some(Underway { progress, started: self.started });
        self.tell(progress);
        Ok(())
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // Another pack's, if this one was refused at once.
        if self.part.is_some() {
            *self.served.packs.underway.lock() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Address, ListenerOptions, ServerOptions};
    use crate::storage::mapping::MappingStorage;

    const HALF: PackProgress = PackProgress { phase: PackPhase::Copying, done: 1, total: 2 };

    fn served() -> Arc<Served> {
        let options = ServerOptions {
            listeners: vec![ListenerOptions::new(Address::Tcp { host: String::new(), port: 0 })],
            storages: vec![],
            read_only: false,
            invalidation_queue_size: 100,
            invalidation_age: None,
            transaction_timeout: None,
            client_conflict_resolution: false,
            authenticator: None,
        };
        Arc::new(Served::new("1".to_owned(), MappingStorage::new("memory".to_owned()), &options).expect("a storage"))
    }

    #[test]
    fn a_part_of_a_pack_is_told_with_the_time_that_it_may_take() {
        let catching_up = |done, total| PackProgress { phase: PackPhase::CatchingUp, done, total };
        let minute = Duration::from_secs(60);
        assert_eq!(how_far(HALF, minute), "copying: 50%, about 60 seconds left for this part");
        assert_eq!(how_far(catching_up(0, 300), minute), "catching up: 0%");
        assert_eq!(how_far(catching_up(0, 0), minute), "catching up: 0%");
        assert!(goes_on(catching_up(1, 300), catching_up(2, 300)));
        assert!(!goes_on(catching_up(300, 300), catching_up(0, 300)), "the next round");
        assert!(!goes_on(catching_up(1, 300), catching_up(1, 200)), "the next round");
        assert!(!goes_on(HALF, catching_up(2, 2)));
    }

    #[tokio::test]
    async fn the_last_step_waits_for_the_commit_before_it_and_those_after_it_wait() {
        let served = served();
        let voted = served.commit_lock.ask().turn().await;
        let packing = Arc::clone(&served);
        let pack = tokio::task::spawn_blocking(move || {
            let mut is_alone = false;
            Host::new(&packing).exclusively(&mut || {
                is_alone = packing.commit_lock.waiting() == 1;
                Ok(())
            })?;
            Ok::<_, StorageError>(is_alone)
        });
        while served.commit_lock.waiting() == 0 {
            assert!(!pack.is_finished(), "it does not ask for its turn");
            tokio::task::yield_now().await;
        }
        let next = served.commit_lock.ask();
        assert!(!pack.is_finished());
        drop(voted);
        assert!(pack.await.expect("no panic").expect("no error"), "the next transaction has come to its turn");
        drop(next.turn().await);
        assert_eq!(served.commit_lock.held_since(), None);
    }

    #[tokio::test]
    async fn a_stop_ends_the_pack_and_waits_for_that() {
        let served = served();
        let running = served.packs.running.read().await;
        let mut host = Host::new(&served);
        host.progress(HALF).expect("the pack goes on");
        assert!(served.packs.status().is_some());
        let stop = served.packs.stop();
        tokio::pin!(stop);
        assert!(is_pending(stop.as_mut()), "the pack is under way");
        assert!(matches!(host.progress(HALF), Err(StorageError::Refused(_))));
        assert!(matches!(last_step(&served).await, Err(StorageError::Refused(_))));
        drop(host);
        drop(running);
        stop.await;
        assert!(served.packs.status().is_none());
        assert_eq!(served.commit_lock.held_since(), None);
    }

    fn is_pending(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    async fn last_step(served: &Arc<Served>) -> Result<()> {
        let served = Arc::clone(served);
        let step = move || Host::new(&served).exclusively(&mut || panic!("the server stops"));
        tokio::task::spawn_blocking(step).await.expect("no panic")
    }

    #[test]
    fn only_the_pack_under_way_is_in_the_statistics() {
        let served = served();
        let mut host = Host::new(&served);
        host.progress(HALF).expect("the pack goes on");
        drop(Host::new(&served));
        let status = served.status_json();
        let packing = status.get("packing").expect("it is still there");
        assert_eq!((&packing["phase"], &packing["done"], &packing["total"]), (&"copying".into(), &1.into(), &2.into()));
        drop(host);
        assert!(served.status_json().get("packing").is_none());
    }
}
