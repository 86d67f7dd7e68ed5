//! Object ids and transaction ids: eight bytes each, big-endian on the wire and on disk.
//!
//! A transaction id is a time stamp: the upper half counts minutes in a calendar whose months all
//! have 31 days, the lower half is the fraction of the minute. Successive ids of one storage always
//! grow, even when the clock steps back ([`Tid::later_than`]).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An object id. The root object of a database is oid 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Oid(pub u64);

/// A transaction id, also the serial of every object revision the transaction wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tid(pub u64);

macro_rules! eight_bytes {
    ($name:ident) => {
        impl $name {
            /// Eight zero bytes: the root's oid, or "no transaction yet".
            pub const ZERO: Self = Self(0);

            /// The id in its form on the wire and on disk.
            pub const fn to_bytes(self) -> [u8; 8] {
                self.0.to_be_bytes()
            }

            /// The id whose form on the wire and on disk is `bytes`.
            pub const fn from_bytes(bytes: [u8; 8]) -> Self {
                Self(u64::from_be_bytes(bytes))
            }

            /// The id in `bytes`, if there are exactly eight of them.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_bytes)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#018x})"), self.0)
            }
        }
    };
}

eight_bytes!(Oid);
eight_bytes!(Tid);

impl fmt::Display for Oid {
    /// As ZODB shows an oid: `0x` and at least two hex digits, an even number of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:x}", self.0);
        let pad = if digits.len() % 2 == 1 { "0" } else { "" };
        write!(f, "0x{pad}{digits}")
    }
}

impl fmt::Display for Tid {
    /// Sixteen hex digits, as ZODB's tools print a tid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Seconds in one unit of a tid's lower half; the very double that Python divides by.
const SECONDS_PER_FRACTION: f64 = 60.0 / 65536.0 / 65536.0;

impl Tid {
    /// Above every tid that a storage can give: "the current revision" in a load.
    pub const MAX: Self = Self(0x7fff_ffff_ffff_ffff);

    /// The id for a moment of wall-clock time.
    pub fn from_time(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let whole = since_epoch.as_secs().cast_signed();
        let second = u32::try_from(whole.rem_euclid(60)).unwrap_or_default();
        Self::of_second(whole, f64::from(second) + f64::from(since_epoch.subsec_nanos()) / 1e9)
    }

    /// The id for a moment in seconds since 1970, to the bit as `TimeStamp(*gmtime(t)[:5] + (t % 60,))` computes it.
    /// `None` outside of the years that an id can tell.
    pub fn from_unix_seconds(seconds: f64) -> Option<Self> {
        // From 1900 to 9892.
        if !(-2_208_988_800.0..250e9).contains(&seconds) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the range has just been checked")]
        let whole = seconds.floor() as i64;
        Some(Self::of_second(whole, seconds.rem_euclid(60.0)))
    }

    /// The id for the minute in which second `whole` since 1970 lies, and `seconds` into it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "minutes since 1900 fit 32 bits for 8000 years, and Python truncates the fraction"
    )]
    fn of_second(whole: i64, seconds: f64) -> Self {
        let (year, month, day) = civil_from_days(whole.div_euclid(86_400));
        let minute_of_day = whole.rem_euclid(86_400) / 60;
        Self::from_parts(
            Self::minutes(year, month, day) + minute_of_day as u32,
            (seconds / SECONDS_PER_FRACTION) as u32,
        )
    }

    /// Seconds since 1970, as `TimeStamp(tid).timeTime()` gives them.
    pub fn to_unix_seconds(self) -> f64 {
        let (minutes, fraction) = self.parts();
        let (minute, hour) = (minutes % 60, minutes / 60 % 24);
        let days = minutes / (24 * 60);
        let (day, month, year) = (days % 31 + 1, days / 31 % 12 + 1, days / (31 * 12) + 1900);
        let whole =
            days_from_civil(i64::from(year), month, day) * 86_400 + i64::from(hour) * 3600 + i64::from(minute) * 60;
        #[expect(clippy::cast_precision_loss, reason = "a date in seconds is far below 2^52")]
        let whole = whole as f64;
        whole + f64::from(fraction) * SECONDS_PER_FRACTION
    }

    /// `self` if it is later than `other`, else the first id after `other` that is a valid date.
    #[must_use]
    pub fn later_than(self, other: Self) -> Self {
        if self > other {
            return self;
        }
        let (minutes, fraction) = other.parts();
        match fraction.checked_add(1) {
            Some(fraction) => Self::from_parts(minutes, fraction),
            None => Self::from_parts(next_minute(minutes), 0),
        }
    }

    fn minutes(year: i64, month: u32, day: u32) -> u32 {
        let years = u32::try_from(year - 1900).unwrap_or(0);
        ((years * 12 + (month - 1)) * 31 + (day - 1)) * 24 * 60
    }

    const fn from_parts(minutes: u32, fraction: u32) -> Self {
        Self((minutes as u64) << 32 | fraction as u64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves are 32 bits each")]
    const fn parts(self) -> (u32, u32) {
        ((self.0 >> 32) as u32, self.0 as u32)
    }
}

/// The minute after `minutes`, rolling over real month lengths.
fn next_minute(minutes: u32) -> u32 {
    if minutes % (24 * 60) != 24 * 60 - 1 {
        return minutes.saturating_add(1);
    }
    let days = minutes / (24 * 60);
    let (day, month, year) = (days % 31 + 1, days / 31 % 12 + 1, i64::from(days / (31 * 12)) + 1900);
    let (year, month, day) = civil_from_days(days_from_civil(year, month, day) + 1);
    Tid::minutes(year, month, day)
}

/// Days since 1970-01-01 of a date in the Gregorian calendar.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (i64::from(month) + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date (year, month, day) that lies `days` after 1970-01-01.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "months and days are small")]
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors recorded from ZODB 6.4 (`TimeStamp(*time.gmtime(t)[:5], t % 60)`).
    #[test]
    fn time_to_tid_as_python() {
        for (seconds, nanos, tid) in [
            (0, 0, 0x023c_2b00_0000_0000),
            (951_868_799, 999_999_000, 0x0332_b37f_ffff_ffb8),
            (1_795_189_673, 500_000_000, 0x040d_2553_e444_4444_u64),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            let got = Tid::from_time(time);
            // Python's own `t % 60` has lost bits of the fraction; whole seconds agree exactly.
            assert_eq!(got.0 >> 32, tid >> 32, "{got}");
            assert!(got.0.abs_diff(tid) < 0x100, "{got} {tid:016x}");
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let expected = seconds as f64 + f64::from(nanos) / 1e9;
            assert!((Tid(tid).to_unix_seconds() - expected).abs() < 1e-6);
        }
    }

    /// Vectors recorded from ZODB 6.4 (`TimeStamp(*time.gmtime(t)[:5] + (t % 60,))`), which `pack` uses.
    #[test]
    fn unix_seconds_to_tid_as_python() {
        for (seconds, tid) in [
            (0.0, 0x023c_2b00_0000_0000),
            (-1.0, 0x023c_2aff_fbbb_bbbb),
            (-0.5, 0x023c_2aff_fddd_dddd),
            (1.5, 0x023c_2b00_0666_6666),
            (1_700_000_000.123_456, 0x03f4_7f95_55dc_2e22),
            (1_795_189_673.5, 0x040d_2553_e444_4444),
            (249e9, 0xfe2b_b980_0000_0000),
            (-2_208_988_800.0, 0),
        ] {
            assert_eq!(Tid::from_unix_seconds(seconds), Some(Tid(tid)), "{seconds}");
        }
        for outside in [-2_208_988_801.0, 250e9, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(Tid::from_unix_seconds(outside), None, "{outside}");
        }
    }

    #[test]
    fn later_than_counts_up_and_rolls_over_real_months() {
        assert_eq!(Tid(5).later_than(Tid(4)), Tid(5));
        assert_eq!(Tid(4).later_than(Tid(4)), Tid(5));
        assert_eq!(
            Tid::ZERO.later_than(Tid(0x0407_32df_ffff_ffff)),
            Tid(0x0407_43c0_0000_0000),
            "2026-02-28 23:59 is followed by 2026-03-01 00:00"
        );
    }

    #[test]
    fn shown_as_zodb_shows_them() {
        assert_eq!(Oid(0).to_string(), "0x00");
        assert_eq!(Oid(0x123).to_string(), "0x0123");
        assert_eq!(Tid(0x040d_2553_e444_4444).to_string(), "040d2553e4444444");
    }
}
