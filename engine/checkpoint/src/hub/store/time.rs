//! The time of a request, as stores write it.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub u64);

impl Moment {
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// Year, month and day, by Howard Hinnant's `civil_from_days`.
    fn date(self) -> (u64, u64, u64) {
        let days = self.0 / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        (year_of_era + era * 400 + u64::from(month <= 2), month, day)
    }

    fn clock(self) -> (u64, u64, u64) {
        let second = self.0 % 86_400;
        (second / 3600, second / 60 % 60, second % 60)
    }

    /// `20130524T000000Z`
    pub fn basic(self) -> String {
        let ((year, month, day), (hour, minute, second)) = (self.date(), self.clock());
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    /// `Fri, 24 May 2013 00:00:00 GMT`
    pub fn of_web(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let ((year, month, day), (hour, minute, second)) = (self.date(), self.clock());
        let name = DAYS[(self.0 / 86_400 % 7) as usize];
        let month = MONTHS[month as usize - 1];
        format!("{name}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_stores_read_them() {
        let check = |seconds, basic: &str, web: &str| {
            let moment = Moment(seconds);
            assert_eq!((moment.basic().as_str(), moment.of_web().as_str()), (basic, web));
        };
        check(0, "19700101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT");
        check(1_369_353_600, "20130524T000000Z", "Fri, 24 May 2013 00:00:00 GMT");
        check(1_709_210_096, "20240229T123456Z", "Thu, 29 Feb 2024 12:34:56 GMT");
    }
}
