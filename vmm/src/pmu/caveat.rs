//! What a reader of the guest's counts must know, in one line.

use vpmu::Totals;

use super::select::Reason;

/// The line; `clock` is why a clock backed counters that the guest used.
pub(super) fn text(clock: Option<Reason>, totals: &Totals) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(reason) = clock {
        parts.push(format!("cycles are derived from a clock ({reason})"));
    }
    let mut count = |number: u64, what: &str| {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    };
    count(
        totals.scaled_reads,
        "reads of counts are scaled (counters took turns)",
    );
    count(totals.not_counted, "times a counter did not count");
    count(totals.starved, "counters never had a turn");
    count(
        totals.host_revocations,
        "times the host took a counter away",
    );
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_counts_have_no_caveat_and_others_have_one_line() {
        assert_eq!(text(None, &Totals::default()), None);
        let totals = Totals {
            scaled_reads: 3,
            starved: 1,
            ..Totals::default()
        };
        let line = text(Some(Reason::NoHostPmu), &totals).unwrap();
        assert_eq!(
            line,
            "cycles are derived from a clock (the host has no core PMU); 3 reads of counts are \
             scaled (counters took turns); 1 counters never had a turn"
        );
    }
}
