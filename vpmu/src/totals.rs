//! What happened to the counters of a vCPU since it started.

/// Totals since the vCPU started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Counters that wrapped.
    pub overflows: u64,
    /// Events that were counted past a wrap until it was seen, of all overflows.
    pub skid: u64,
    /// The most of them for one overflow.
    pub longest_skid: u64,
    /// PMIs that reached the guest, by [`crate::PendingPmi::delivered`].
    pub pmis: u64,
    /// PMIs that met a masked LVTPC, or whose cause the guest had dealt with.
    pub pmis_suppressed: u64,
    /// Times a counter was wanted and could not be backed, was refused, or got
    /// into the error state.
    pub troubles: u64,
    /// Guest reads that returned an estimate.
    pub scaled_reads: u64,
    /// Times a pinned counter got into the error state.
    pub pinned_errors: u64,
    /// Flexible counters that the guest stopped before their first turn: it read
    /// nothing of them.
    pub starved: u64,
    /// Rotations of counters that take turns.
    pub rotations: u64,
    /// Times the host took a counter away.
    pub revocations: u64,
}

impl core::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.overflows += other.overflows;
        self.skid += other.skid;
        self.longest_skid = self.longest_skid.max(other.longest_skid);
        self.pmis += other.pmis;
        self.pmis_suppressed += other.pmis_suppressed;
        self.troubles += other.troubles;
        self.scaled_reads += other.scaled_reads;
        self.pinned_errors += other.pinned_errors;
        self.starved += other.starved;
        self.rotations += other.rotations;
        self.revocations += other.revocations;
    }
}
