//! When a log file is rotated by the clock, and which name the old one gets.

use std::time::{Duration, SystemTime};

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// The times of rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    when: When,
    interval: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Seconds,
    Minutes,
    Hours,
    Days,
    Midnight,
    /// The midnight that ends this day.
    EndOf(Weekday),
}

const HOUR_S: u64 = 60 * 60;
const DAY_S: u64 = 24 * HOUR_S;

impl Schedule {
    /// The schedule for a `when` and an `interval` of a `<logfile>`. The error is the original's words.
    pub fn parse(when: &str, interval: u32) -> Result<Self, String> {
        let when = when.to_uppercase();
        let parsed = match when.as_str() {
            "S" => When::Seconds,
            "M" => When::Minutes,
            "H" => When::Hours,
            "D" => When::Days,
            "MIDNIGHT" => When::Midnight,
            _ => match when.strip_prefix('W').map(|day| (day.len(), day.parse::<i8>())) {
                None => return Err(format!("Invalid rollover interval specified: {when}")),
                Some((1, Ok(day @ 0..=6))) => {
                    Weekday::from_monday_zero_offset(day).map(When::EndOf).map_err(|error| error.to_string())?
                }
                Some((1, _)) => return Err(format!("Invalid day specified for weekly rollover: {when}")),
                Some(_) => {
                    return Err(format!(
                        "You must specify a day for weekly rollover from 0 to 6 (0 is Monday): {when}"
                    ));
                }
            },
        };
        Ok(Self { when: parsed, interval })
    }

    /// The first rotation of a file that was begun or last written at `time`.
    pub fn next(&self, time: SystemTime) -> SystemTime {
        match self.when {
            When::Midnight => midnight_after(time, |_| true).unwrap_or(time + self.length()),
            When::EndOf(day) => midnight_after(time, |date| date.weekday() == day).unwrap_or(time + self.length()),
            _ => time + self.length(),
        }
    }

    /// What is put behind the name of a file whose rotation is due at `due`: when it was begun.
    pub fn suffix(&self, due: SystemTime) -> String {
        let format = match self.when {
            When::Seconds => "%Y-%m-%d_%H-%M-%S",
            When::Minutes => "%Y-%m-%d_%H-%M",
            When::Hours => "%Y-%m-%d_%H",
            When::Days | When::Midnight | When::EndOf(_) => "%Y-%m-%d",
        };
        let begun = match self.when {
            // Days of the calendar, which may have 23 or 25 hours.
            When::Midnight | When::EndOf(_) => self.days_before(due).unwrap_or(due),
            _ => due.checked_sub(self.length()).unwrap_or(due),
        };
        super::record::local_time(begun, format)
    }

    /// Whether `suffix` looks like one that [`suffix`](Self::suffix) gives.
    pub fn is_suffix(&self, suffix: &str) -> bool {
        let pattern = match self.when {
            When::Seconds => "0000-00-00_00-00-00",
            When::Minutes => "0000-00-00_00-00",
            When::Hours => "0000-00-00_00",
            When::Days | When::Midnight | When::EndOf(_) => "0000-00-00",
        };
        suffix.len() == pattern.len()
            && suffix.bytes().zip(pattern.bytes()).all(|(byte, pattern)| match pattern {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            })
    }

    fn length(&self) -> Duration {
        let unit = match self.when {
            When::Seconds => 1,
            When::Minutes => 60,
            When::Hours => HOUR_S,
            When::Days | When::Midnight => DAY_S,
            When::EndOf(_) => 7 * DAY_S,
        };
        Duration::from_secs(unit * u64::from(self.interval))
    }

    fn days_before(&self, due: SystemTime) -> Option<SystemTime> {
        let days = i64::try_from(self.length().as_secs() / DAY_S).ok()?;
        Some(zoned(due)?.checked_sub(days.days()).ok()?.timestamp().into())
    }
}

/// The midnight that ends the first day from `time` on which `accepts` accepts.
fn midnight_after(time: SystemTime, accepts: impl Fn(Date) -> bool) -> Option<SystemTime> {
    let mut date = zoned(time)?.date();
    for _ in 0..7 {
        if accepts(date) {
            break;
        }
        date = date.tomorrow().ok()?;
    }
    let midnight = date.tomorrow().ok()?.to_zoned(TimeZone::system()).ok()?;
    Some(midnight.timestamp().into())
}

fn zoned(time: SystemTime) -> Option<Zoned> {
    Some(Timestamp::try_from(time).ok()?.to_zoned(TimeZone::system()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::logging::record::local_time;

    /// Wednesday the 18th of November 2026, about noon in most places.
    const WEDNESDAY: Duration = Duration::from_secs(1_795_003_200);

    #[test]
    fn intervals_are_added() {
        let now = UNIX_EPOCH + WEDNESDAY;
        for (when, seconds) in [("s", 2), ("M", 120), ("H", 2 * HOUR_S), ("D", 2 * DAY_S)] {
            let schedule = Schedule::parse(when, 2).unwrap();
            assert_eq!(schedule.next(now), now + Duration::from_secs(seconds), "{when}");
        }
    }

    #[test]
    fn days_end_at_midnight() {
        let now = UNIX_EPOCH + WEDNESDAY;
        let format = "%Y-%m-%d %H:%M:%S";
        for (when, next, suffix) in [
            ("midnight", "2026-11-19 00:00:00", "2026-11-18"),
            ("W2", "2026-11-19 00:00:00", "2026-11-12"),
            ("W6", "2026-11-23 00:00:00", "2026-11-16"),
            ("W1", "2026-11-25 00:00:00", "2026-11-18"),
        ] {
            let schedule = Schedule::parse(when, 1).unwrap();
            let due = schedule.next(now);
            assert_eq!(local_time(due, format), next, "{when}");
            assert_eq!(schedule.suffix(due), suffix, "{when}");
            assert!(schedule.is_suffix(suffix));
            assert!(!schedule.is_suffix("2026-11-18_10"));
        }
    }

    #[test]
    fn errors_are_the_originals() {
        for (when, message) in [
            ("x", "Invalid rollover interval specified: X"),
            ("W", "You must specify a day for weekly rollover from 0 to 6 (0 is Monday): W"),
            ("W7", "Invalid day specified for weekly rollover: W7"),
        ] {
            assert_eq!(Schedule::parse(when, 1), Err(message.to_owned()));
        }
    }
}
