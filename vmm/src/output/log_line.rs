//! The form of a line of the log: when, who, how bad, where, what.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::Record;

/// What the VM is called.
static NAME: OnceLock<String> = OnceLock::new();

/// Calls the VM so in each line from here on; the first name stays.
pub fn name(name: &str) {
    NAME.get_or_init(|| name.to_owned());
}

/// Writes a record as one line. The name and the process's number tell the VMs of a host
/// apart.
///
/// # Errors
/// What writing says.
pub fn write(out: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    writeln!(
        out,
        "[{} {}[{}] {:<5} {}] {}",
        timestamp(now.unwrap_or_default()),
        NAME.get().map_or("perfvisor", String::as_str),
        std::process::id(),
        record.level(),
        record.target(),
        record.args()
    )
}

/// RFC 3339, UTC, with milliseconds.
fn timestamp(since_epoch: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_millis()
    )
}

/// Year, month and day of a day since 1970 (Gregorian calendar).
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= year_length(year) {
        days -= year_length(year);
        year += 1;
    }
    let february = year_length(year) - 337;
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

const fn year_length(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -u -d @N +%FT%TZ`.
    #[test]
    fn timestamps_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
    }
}
