//! The rate of this machine's TSC, which is that of a nested host by the wall's clock.
//! Told, its kernel need not measure: on a busy machine it is wrong by factors then, and
//! its clock with it.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use guest_tests::cpu::rdtsc;

/// The TSC and the clock at one instant.
struct Moment {
    ticks: u64,
    time: Instant,
    /// The time that looking took.
    slack: Duration,
}

/// Ticks in a millisecond, within some millionths.
pub(super) fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| measured(Duration::from_millis(100)))
}

fn measured(span: Duration) -> u64 {
    let start = now();
    thread::sleep(span);
    let end = now();
    let ticks = u128::from(end.ticks.wrapping_sub(start.ticks));
    let ns = end.time.duration_since(start.time).as_nanos().max(1);
    u64::try_from(ticks * 1_000_000 / ns).unwrap_or(u64::MAX)
}

/// The look that nothing came between.
fn now() -> Moment {
    (0..32).fold(look(), |best, _| {
        let other = look();
        if other.slack < best.slack {
            other
        } else {
            best
        }
    })
}

fn look() -> Moment {
    let before = Instant::now();
    let ticks = rdtsc();
    let slack = before.elapsed();
    Moment {
        ticks,
        time: before + slack / 2,
        slack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, two) = (khz(), measured(Duration::from_millis(50)));
        // A TSC of less than 100 MHz is none.
        assert!(one > 100_000, "{one}");
        assert!(one.abs_diff(two) * 2_000 < one, "{one} and {two}");
    }
}
