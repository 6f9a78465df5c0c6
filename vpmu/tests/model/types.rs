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
