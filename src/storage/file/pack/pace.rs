//! How fast a pack goes, and who hears of it: the host a few times a second, the disk no more than is allowed.

use std::time::{Duration, Instant};

use crate::ids::{Oid, Tid};
use crate::storage::{PackHost, PackPhase, PackProgress, Result};

/// Between two looks at the clock.
const LOOK_AFTER_BYTES: u64 = 1 << 20;
/// What a record costs beside its bytes.
const RECORD_BYTES: u64 = 64;
/// Between two words to the host.
const TELL_INTERVAL: Duration = Duration::from_millis(250);
/// The host is asked at least this often while the pack waits.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// A pack that was held up may go faster than its rate until it has made up for so much of the time.
const MOST_CREDIT: Duration = Duration::from_millis(250);

/// Tells the host of the progress, and slows down if asked for.
pub(super) struct Pace<'h> {
    host: &'h mut dyn PackHost,
    clock: Box<dyn Clock>,
    throttle: Option<Throttle>,
    /// Bytes that the throttle does not know of yet, and what the looks at the clock are counted by.
    moved: u64,
    unlooked: u64,
    told: Duration,
    progress: PackProgress,
}

/// Time since some moment. Tests have one of their own.
trait Clock {
    fn now(&self) -> Duration;
    fn sleep(&self, time: Duration);
}

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// When what was moved would have been done at the allowed rate.
struct Throttle {
    rate_bytes: u64,
    due: Duration,
}

impl Throttle {
    /// How long to wait after `bytes` more.
    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
    fn owed(&mut self, bytes: u64, now: Duration) -> Duration {
        let seconds = bytes as f64 / self.rate_bytes.max(1) as f64;
        let takes = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.due = self.due.max(now.saturating_sub(MOST_CREDIT)).saturating_add(takes);
        self.due.saturating_sub(now)
    }
}

impl<'h> Pace<'h> {
    /// `rate_bytes`: how many bytes may be read and written in a second.
    pub fn new(host: &'h mut dyn PackHost, rate_bytes: Option<u64>) -> Self {
        Self::with_clock(host, rate_bytes, Box::new(Monotonic(Instant::now())))
    }

    fn with_clock(host: &'h mut dyn PackHost, rate_bytes: Option<u64>, clock: Box<dyn Clock>) -> Self {
        let now = clock.now();
        let throttle = rate_bytes.map(|rate_bytes| Throttle { rate_bytes, due: now });
        let progress = PackProgress { phase: PackPhase::Scanning, done: 0, total: 0 };
        Self { host, clock, throttle, moved: 0, unlooked: 0, told: now, progress }
    }

    /// Begins with a phase that ends when `total` is done.
    pub fn begin(&mut self, phase: PackPhase, total: u64) -> Result<()> {
        self.progress = PackProgress { phase, done: 0, total };
        self.tell(self.clock.now())
    }

    /// A record was dealt with, and `done` of the phase with it; `bytes` is what was read and written of it.
    pub fn step(&mut self, done: u64, bytes: u64) -> Result<()> {
        self.moved += bytes;
        self.unlooked += bytes + RECORD_BYTES;
        if self.unlooked < LOOK_AFTER_BYTES {
            return Ok(());
        }
        self.unlooked = 0;
        self.progress.done = done;
        loop {
            let now = self.clock.now();
            if now.saturating_sub(self.told) >= TELL_INTERVAL {
                self.tell(now)?;
            }
            let moved = std::mem::take(&mut self.moved);
            let owed = self.throttle.as_mut().map_or(Duration::ZERO, |throttle| throttle.owed(moved, now));
            if owed.is_zero() {
                return Ok(());
            }
            self.clock.sleep(owed.min(LONGEST_SLEEP));
        }
    }

    /// What is still to be done must not take longer than it comes in.
    pub fn hurry(&mut self) {
        self.throttle = None;
    }

    fn tell(&mut self, now: Duration) -> Result<()> {
        self.told = now;
        self.host.progress(self.progress)
    }

    /// Whether the host wants to hear of blobs.
    pub fn has_blobs(&self) -> bool {
        self.host.has_blobs()
    }

    /// A revision of a blob is left out.
    pub fn blob_removed(&mut self, oid: Oid, tid: Tid, whole_object: bool) -> Result<()> {
        self.host.blob_removed(oid, tid, whole_object)
    }

    /// Runs the last step while nothing is committed.
    pub fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.host.exclusively(last_step)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;

    const MIB: u64 = 1 << 20;
    const SECOND: Duration = Duration::from_secs(1);

    /// Only sleeping takes time.
    impl Clock for Rc<Cell<Duration>> {
        fn now(&self) -> Duration {
            self.get()
        }

        fn sleep(&self, time: Duration) {
            assert!(!time.is_zero() && time <= LONGEST_SLEEP);
            self.set(self.get() + time);
        }
    }

    #[derive(Default)]
    struct Host {
        told: RefCell<Vec<u64>>,
        gives_up: bool,
    }

    impl PackHost for Host {
        fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
            last_step()
        }

        fn progress(&mut self, progress: PackProgress) -> Result<()> {
            self.told.borrow_mut().push(progress.done);
            if self.gives_up { Err(crate::storage::StorageError::Refused(String::new())) } else { Ok(()) }
        }
    }

    #[test]
    fn goes_at_its_rate() {
        let (mut host, clock) = (Host::default(), Rc::new(Cell::new(SECOND)));
        let mut pace = Pace::with_clock(&mut host, Some(MIB), Box::new(clock.clone()));
        for step in 1..=4096 {
            pace.step(step, 1024).expect("on");
        }
        let now = clock.get();
        assert!(now > 4 * SECOND && now <= 5 * SECOND, "{now:?}");
        assert!(host.told.borrow().len() >= 10, "a few times a second");
    }

    #[test]
    fn does_not_make_up_for_a_long_time_in_which_it_was_held_up() {
        let (mut host, clock) = (Host::default(), Rc::new(Cell::new(Duration::ZERO)));
        let mut pace = Pace::with_clock(&mut host, Some(MIB), Box::new(clock.clone()));
        clock.set(3600 * SECOND);
        for step in 1..=8 {
            pace.step(step, MIB).expect("on");
        }
        assert_eq!(clock.get() + MOST_CREDIT, 3608 * SECOND);
        clock.set(clock.get() + MOST_CREDIT / 2);
        pace.step(9, MIB).expect("on");
        assert_eq!(clock.get() + MOST_CREDIT, 3609 * SECOND, "a short one it does");
    }

    #[test]
    fn no_limit_and_hurry() {
        let (mut host, clock) = (Host::default(), Rc::new(Cell::new(Duration::ZERO)));
        let mut pace = Pace::with_clock(&mut host, None, Box::new(clock.clone()));
        pace.step(1, 100 * MIB).expect("on");
        let mut pace = Pace::with_clock(&mut host, Some(1), Box::new(clock.clone()));
        pace.hurry();
        pace.step(1, 100 * MIB).expect("on");
        assert_eq!(clock.get(), Duration::ZERO);
    }

    #[test]
    fn a_host_that_gives_up_is_heard_while_the_pack_waits() {
        let (mut host, clock) = (Host { gives_up: true, ..Host::default() }, Rc::new(Cell::new(Duration::ZERO)));
        let mut pace = Pace::with_clock(&mut host, Some(0), Box::new(clock.clone()));
        pace.step(1, u64::MAX - MIB).expect_err("given up");
        assert!(clock.get() <= TELL_INTERVAL + LONGEST_SLEEP);
    }
}
