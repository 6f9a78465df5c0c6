//! Numbers that look random and come out the same for the same seed.

use core::sync::atomic::{AtomicU64, Ordering};

/// xorshift64 (Marsaglia 2003), one sequence for a payload and its handlers.
static STATE: AtomicU64 = AtomicU64::new(1);

/// Starts the sequence; 0, which it would never leave, is taken as 1.
pub fn seed(seed: u64) {
    STATE.store(seed.max(1), Ordering::Relaxed);
}

/// The next number.
pub fn next() -> u64 {
    let mut x = STATE.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    STATE.store(x, Ordering::Relaxed);
    x
}

/// A number below `end`, which is not 0.
pub fn below(end: u32) -> u32 {
    // The high half is the better one.
    u32::try_from((next() >> 32) % u64::from(end)).unwrap_or(0)
}

/// One of `choices`; its default if there is none.
pub fn one_of<T: Copy + Default>(choices: &[T]) -> T {
    let number = u32::try_from(choices.len()).unwrap_or(0).max(1);
    choices
        .get(below(number) as usize)
        .copied()
        .unwrap_or_default()
}
