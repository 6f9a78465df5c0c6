//! What happened to the counters of a vCPU since it started.

/// Totals of one vCPU since it started, or of several.
///
/// The field names are those of the API of a VMM: with the feature `serde`, a
/// serializer writes them as they stand here and in this order.
///
/// # Examples
///
/// ```
/// use vpmu::Totals;
///
/// let mut all = Totals { overflows: 3, longest_skid: 7, ..Totals::default() };
/// all += Totals { overflows: 1, longest_skid: 5, ..Totals::default() };
/// assert_eq!((all.overflows, all.longest_skid), (4, 7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Totals {
    /// Guest counters that wrapped.
    pub overflows: u64,
    /// Events that were counted past a wrap until it was seen, of all overflows.
    pub skid: u64,
    /// The most events of `skid` for one overflow.
    pub longest_skid: u64,
    /// PMIs that reached the guest, by [`crate::PendingPmi::delivered`].
    pub pmis_injected: u64,
    /// PMIs that met a masked LVTPC, or whose status the guest had cleared.
    pub pmis_suppressed: u64,
    /// Times a counter was wanted and did not count: it could not be backed, was
    /// refused, or got into the error state.
    pub not_counted: u64,
    /// Flexible counters that the guest stopped before their first turn: it read
    /// no count of them.
    pub starved: u64,
    /// Flexible counters that the guest stopped before their first turn, and whose count is
    /// estimated from what the same event counted shortly before.
    pub estimated: u64,
    /// Guest reads whose value was scaled: an estimate.
    pub scaled_reads: u64,
    /// Times a pinned counter got into the error state.
    pub pinned_errors: u64,
    /// Rotations of counters that take turns.
    pub rotations: u64,
    /// Times the host took a counter away.
    pub host_revocations: u64,
}

/// Adds another vCPU's. No sum wraps.
impl core::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        // Whole, so that a new total is not forgotten.
        let Self {
            overflows,
            skid,
            longest_skid,
            pmis_injected,
            pmis_suppressed,
            not_counted,
            starved,
            estimated,
            scaled_reads,
            pinned_errors,
            rotations,
            host_revocations,
        } = self;
        for (sum, other) in [
            (overflows, other.overflows),
            (skid, other.skid),
            (pmis_injected, other.pmis_injected),
            (pmis_suppressed, other.pmis_suppressed),
            (not_counted, other.not_counted),
            (starved, other.starved),
            (estimated, other.estimated),
            (scaled_reads, other.scaled_reads),
            (pinned_errors, other.pinned_errors),
            (rotations, other.rotations),
            (host_revocations, other.host_revocations),
        ] {
            *sum = sum.saturating_add(other);
        }
        *longest_skid = (*longest_skid).max(other.longest_skid);
    }
}
