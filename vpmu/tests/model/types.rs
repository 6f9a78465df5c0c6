//! What the naive model and the operations share.

/// An event's state; the order is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum St {
    Error,
    Off,
    Inactive,
    Active,
}

/// A context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ctx {
    Cpu(usize),
    Task(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Ev {
    pub(crate) ctx: Ctx,
    /// The only CPU it may be on.
    pub(crate) bound: Option<usize>,
    pub(crate) pmu: usize,
    pub(crate) slice: usize,
    pub(crate) pinned: bool,
    pub(crate) exclusive: bool,
    pub(crate) software: bool,
    /// Its group is software only.
    pub(crate) pure: bool,
    pub(crate) leader: usize,
    pub(crate) state: St,
    pub(crate) on: Option<usize>,
    pub(crate) enabled: u64,
    pub(crate) running: u64,
    pub(crate) index: u64,
    /// When its group got on.
    pub(crate) got_on: u64,
    pub(crate) open: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) exclusive: bool,
    pub(super) armed: bool,
    pub(super) expiry: u64,
}

/// The model.
#[derive(Debug)]
pub(crate) struct Naive {
    pub(crate) now: u64,
    pub(crate) evs: Vec<Ev>,
    pub(crate) cpus: usize,
    /// Counters of each PMU; none for software.
    pub(crate) room: Vec<Option<usize>>,
    pub(super) interval: Vec<u64>,
    /// Which task runs on each CPU.
    pub(crate) current: Vec<Option<usize>>,
    pub(super) slots: Vec<Vec<Slot>>,
    /// (context, PMU) pairs whose flexible groups did not all get on.
    pub(super) needs: Vec<(Ctx, usize)>,
    pub(super) clock: u64,
}

impl Naive {
    pub(crate) fn new(cpus: usize, room: Vec<Option<usize>>, interval: Vec<u64>) -> Self {
        let slots = vec![vec![Slot::default(); room.len()]; cpus];
        Self {
            now: 0,
            evs: vec![],
            cpus,
            room,
            interval,
            current: vec![None; cpus],
            slots,
            needs: vec![],
            clock: 0,
        }
    }
}
