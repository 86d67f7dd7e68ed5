//! How far a pack is, on one line of a terminal. Says nothing where stderr is no terminal.
//!
//! A second connection asks the server for its status meanwhile. Where that does not tell of a pack,
//! as with Python's server, only the time that has passed is shown.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::options::Target;
use crate::client;

/// How often the server is asked, and how long it may take to answer.
const INTERVAL: Duration = Duration::from_millis(500);

/// Letters of the bar.
const WIDTH: u128 = 20;

/// Moves to the beginning of the line, and empties it.
const CLEAR: &str = "\r\x1b[K";

/// Does `work`, and shows meanwhile how far the server is with it.
pub fn shown_while<T>(target: &Target, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (stop, stopped) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || show(target, &stopped));
        let result = work();
        drop(stop);
        result
    });
    let _ = write!(io::stderr(), "{CLEAR}");
    result
}

/// Says that a pack is done.
pub fn tell_end(target: &Target, elapsed: Duration) {
    if io::stderr().is_terminal() {
        let Target { address, storage } = target;
        let _ = writeln!(io::stderr(), "Packed storage {storage} in {address}, {}", clock(elapsed));
    }
}

/// What takes the line away, to be written before anything else.
pub fn cleared() -> &'static str {
    if io::stderr().is_terminal() { CLEAR } else { "" }
}

fn show(target: &Target, stopped: &Receiver<()>) {
    let started = Instant::now();
    let mut pace: Option<Pace> = None;
    loop {
        let status = client::status(&target.address, INTERVAL);
        let packing = status.ok().and_then(|status| Packing::find(&status, &target.storage));
        let now = Instant::now();
        let progress = packing.map(|packing| {
            let pace = pace.take_if(|pace| pace.phase == packing.phase).unwrap_or_else(|| Pace::begin(&packing, now));
            let shown = bar(&packing, pace.left(&packing, now));
            (pace, shown)
        });
        let elapsed = clock(now.duration_since(started));
        let line = match progress {
            Some((continued, shown)) => {
                pace = Some(continued);
                format!("{shown}  {elapsed}")
            }
            None => format!("packing, {elapsed}"),
        };
        // A line that is too long for the terminal is cut, not wrapped.
        let _ = write!(io::stderr(), "{CLEAR}\x1b[?7lstorage {}: {line}\x1b[?7h", target.storage);
        if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// What a server tells of a pack under way.
#[derive(Debug, PartialEq, Eq)]
struct Packing {
    phase: String,
    done: u64,
    total: u64,
}

impl Packing {
    /// From the status of the server, a JSON object with one entry for each storage.
    fn find(status: &[u8], storage: &str) -> Option<Self> {
        let status: serde_json::Value = serde_json::from_slice(status).ok()?;
        let packing = status.get(storage)?.get("packing")?;
        Some(Self {
            phase: packing.get("phase")?.as_str()?.chars().filter(|c| !c.is_control()).collect(),
            done: packing.get("done")?.as_u64()?,
            total: packing.get("total")?.as_u64()?,
        })
    }
}

/// Where a phase was when it was first seen.
struct Pace {
    phase: String,
    seen: Instant,
    done: u64,
}

impl Pace {
    fn begin(packing: &Packing, now: Instant) -> Self {
        Self { phase: packing.phase.clone(), seen: now, done: packing.done }
    }

    /// How long the rest of the phase takes if it goes on like this.
    fn left(&self, packing: &Packing, now: Instant) -> Option<Duration> {
        let progress = packing.done.checked_sub(self.done).filter(|progress| *progress > 0)?;
        let rest = packing.total.saturating_sub(packing.done);
        let left_ms = now.duration_since(self.seen).as_millis() * u128::from(rest) / u128::from(progress);
        u64::try_from(left_ms).ok().map(Duration::from_millis)
    }
}

/// `[#####---------------]  25% copying, 0:12 left`
fn bar(packing: &Packing, left: Option<Duration>) -> String {
    let Packing { phase, done, total } = packing;
    // Of a phase without a total nothing is known but its name.
    let share = |of: u128| u128::from(*done.min(total)) * of / u128::from((*total).max(1));
    let filled: String = (1..=WIDTH).map(|place| if place <= share(WIDTH) { '#' } else { '-' }).collect();
    let left = left.map(|left| format!(", {} left", clock(left))).unwrap_or_default();
    format!("[{filled}] {:3}% {phase}{left}", share(100))
}

/// `0:05`, `1:00:05`
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_found_in_the_status() {
        let status =
            br#"{"1": {"loads": 1}, "2": {"packing": {"phase": "copying", "done": 5, "total": 20, "started": 1.5}}}"#;
        let expected = Packing { phase: "copying".to_owned(), done: 5, total: 20 };
        assert_eq!(Packing::find(status, "2"), Some(expected));
        assert_eq!(Packing::find(status, "1"), None);
        assert_eq!(Packing::find(status, "3"), None);
        assert_eq!(Packing::find(b"ruok", "1"), None);
    }

    #[test]
    fn the_line() {
        let packing = |done, total| Packing { phase: "copying".to_owned(), done, total };
        let left = Some(Duration::from_secs(3605));
        assert_eq!(bar(&packing(5, 20), left), "[#####---------------]  25% copying, 1:00:05 left");
        assert_eq!(bar(&packing(0, 0), None), "[--------------------]   0% copying");
        assert_eq!(bar(&packing(u64::MAX, 20), None), "[####################] 100% copying");
    }

    #[test]
    fn time_left() {
        let packing = |done| Packing { phase: "copying".to_owned(), done, total: 20 };
        let begin = Instant::now();
        let pace = Pace::begin(&packing(4), begin);
        let later = begin + Duration::from_secs(6);
        assert_eq!(pace.left(&packing(4), later), None);
        assert_eq!(pace.left(&packing(8), later), Some(Duration::from_secs(18)));
        assert_eq!(pace.left(&packing(20), later), Some(Duration::ZERO));
    }
}
