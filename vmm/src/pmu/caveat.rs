//! What a reader of the guest's counts must know, in one line.

use vpmu::Totals;

use super::select::Reason;
use crate::vcpu::UncountedNames;

/// The line; `clock` is why a clock backed counters that the guest used.
pub(super) fn text(
    clock: Option<Reason>,
    totals: &Totals,
    uncounted: &UncountedNames,
) -> Option<String> {
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
    if uncounted.is_empty() {
        count(totals.not_counted, "times a counter did not count");
    }
    count(
        totals.estimated,
        "turns of counters are estimated (none of the host's was free)",
    );
    count(
        totals.starved,
        "times a counter never had a turn, and read too little",
    );
    count(
        totals.host_revocations,
        "times the host took a counter away",
    );
    if !uncounted.is_empty() {
        let names: Vec<_> = uncounted.keys().map(String::as_str).collect();
        parts.push(format!(
            "nothing counts {}: a 0 is no count",
            names.join(", ")
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_counts_have_no_caveat_and_others_have_one_line() {
        let none = UncountedNames::new();
        assert_eq!(text(None, &Totals::default(), &none), None);
        let totals = Totals {
            scaled_reads: 3,
            starved: 1,
            ..Totals::default()
        };
        let line = text(Some(Reason::NoHostPmu), &totals, &none).unwrap();
        assert_eq!(
            line,
            "cycles are derived from a clock (the host has no core PMU); 3 reads of counts are \
             scaled (counters took turns); 1 times a counter never had a turn, and read too little"
        );
        let uncounted = [("L1-dcache-loads".to_owned(), 7), ("r1d1".to_owned(), 1)].into();
        let totals = Totals {
            not_counted: 8,
            ..Totals::default()
        };
        let line = text(None, &totals, &uncounted).unwrap();
        assert_eq!(
            line,
            "nothing counts L1-dcache-loads, r1d1: a 0 is no count"
        );
    }
}
