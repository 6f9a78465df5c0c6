//! Random numbers, and random attributes of an event.

/// xorshift64 (Marsaglia 2003).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The high half is the better one.
        (self.next() >> 32) % end
    }

    /// Bits that are set once in `of`.
    fn bits(&mut self, count: u32, of: u64) -> u64 {
        (0..count).fold(0, |bits, bit| bits | u64::from(self.below(of) == 0) << bit)
    }

    /// A sample period. At a count each nanosecond the usual one overflows less than a
    /// hundred times a second: as many counters as a CPU has must leave it time for
    /// something else, also in an emulation, where a sample takes a millisecond. The short
    /// one is rare, and the kernel's limit of samples holds it.
    pub(crate) fn period(&mut self) -> u64 {
        match self.below(64) {
            0 => 100 + self.below(1_000),
            1..=15 => LEAST_PERIOD + self.below(100_000_000),
            16..=31 => 1_000_000_000 + self.below(10_000_000_000),
            32..=35 => self.next(),
            _ => 0,
        }
    }
}

/// The shortest of the usual periods.
const LEAST_PERIOD: u64 = 10_000_000;
/// The shortest period of a software clock, in nanoseconds. All that are open may run at a
/// time, each by a timer of its own.
const LEAST_CLOCK: u64 = 50_000_000;
/// The most samples a second that are asked for by number.
const MOST_SAMPLES: u64 = 100;

/// `perf_event_attr` as of its 7th version.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
    config2: u64,
    rest: [u64; 7],
}

/// Bits of `flags`.
const FREQ: u64 = 1 << 10;
/// `precise_ip`.
const PRECISE: u64 = 3 << 15;
/// Bits of `flags` that are tried: all up to `context_switch` but `precise_ip`.
const FLAG_BITS: u32 = 27;
/// `PERF_SAMPLE_*` that are tried.
const SAMPLE_BITS: u32 = 24;
/// `PERF_FORMAT_*`.
const READ_BITS: u32 = 5;

/// Selects that a PMU of Intel's or AMD's may know.
const RAW: [u64; 8] = [0x3c, 0xc0, 0x76, 0x412e, 0x4f2e, 0xc4, 0xc5, 0x13c];

/// None, some that any PMU takes, or any.
fn sample_type(random: &mut Random) -> u64 {
    /// IP, TID, TIME, ADDR, CALLCHAIN, ID, CPU, PERIOD, STREAM_ID, IDENTIFIER.
    const USUAL: u64 = 0x1_03ef;
    match random.below(8) {
        0..=2 => 0,
        3..=6 => random.next() & USUAL,
        _ => random.bits(SAMPLE_BITS, 5),
    }
}

impl Attr {
    pub(crate) fn any(random: &mut Random) -> Self {
        let (kind, config) = match random.below(16) {
            0..=7 => (0, random.below(11)),
            8 | 9 => (1, random.below(13)),
            10 => (
                3,
                random.below(8) | random.below(4) << 8 | random.below(3) << 16,
            ),
            11..=13 => (4, RAW[usize::try_from(random.below(8)).unwrap_or(0)]),
            14 => (4, random.next()),
            _ => (random.below(14), random.next() >> random.below(64)),
        };
        let mut flags = random.bits(FLAG_BITS, 12) & !PRECISE;
        if random.below(16) == 0 {
            flags |= random.next() & PRECISE;
        }
        let period = random.period();
        let period = match (flags & FREQ == 0, kind == 1) {
            (false, _) => period % MOST_SAMPLES,
            (true, true) => period.max(LEAST_CLOCK),
            (true, false) => period,
        };
        Self {
            kind: u32::try_from(kind).unwrap_or(0),
            size: u32::try_from(size_of::<Self>()).unwrap_or(0),
            config,
            period,
            sample_type: sample_type(random),
            read_format: random.bits(READ_BITS, 2),
            flags,
            wakeup: u32::try_from(random.below(4)).unwrap_or(0),
            // A type 5, a breakpoint, is not tried: 0 is none.
            breakpoint: 0,
            config1: if random.below(16) == 0 {
                random.next()
            } else {
                0
            },
            config2: 0,
            rest: [0; 7],
        }
    }
}
