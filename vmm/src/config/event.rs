//! Events in the operator's notation: in the file of `--pmu filter=@FILE` and for
//! `perfvisor ctl monitor add`.
//!
//! An architectural or a standard event has a name. Any other event is written as `perf` writes
//! its code: `r`, then unit mask and event select in hexadecimal. `:u` and `:k`
//! after it choose privilege levels.

use vpmu::host::{EventCode, HostEvent, Privilege};
use vpmu::x86::event::{ArchEvent, RawEvent};
use vpmu::x86::standard::StandardEvent;

/// The event of a name or a code; `None` if it is neither.
#[must_use]
pub fn code(word: &str) -> Option<EventCode> {
    if let Some(named) = ArchEvent::ALL.into_iter().find(|e| e.name() == word) {
        return Some(named.into());
    }
    if let Some(named) = StandardEvent::from_name(word) {
        return Some(named.into());
    }
    let bits = u64::from_str_radix(word.strip_prefix('r')?, 16).ok()?;
    let raw = RawEvent::of_event_sel(bits);
    (raw.config() == bits).then_some(EventCode::Raw(raw))
}

/// The names that [`code`] takes, for messages.
#[must_use]
pub fn names() -> String {
    let names = ArchEvent::ALL.map(ArchEvent::name).into_iter();
    let all: Vec<_> = names
        .chain(StandardEvent::ALL.map(StandardEvent::name))
        .collect();
    all.join(", ")
}

/// The event of a word such as `cycles`, `instructions:u` or `r1d1:k`.
#[must_use]
pub fn with_levels(word: &str) -> Option<HostEvent> {
    let (event, levels) = word.split_once(':').unwrap_or((word, "uk"));
    let privilege = match levels {
        "u" => (true, false),
        "k" => (false, true),
        "uk" | "ku" => (true, true),
        _ => return None,
    };
    let (user, kernel) = privilege;
    Some(HostEvent {
        code: self::code(event)?,
        privilege: Privilege { user, kernel },
    })
}

/// The words that [`with_levels`] takes, for messages.
#[must_use]
pub fn accepted() -> String {
    let names = names();
    format!("{names}, or r and a code such as r1d1, then :u or :k")
}

/// The event as `perf` writes it.
#[must_use]
pub fn name(attr: &HostEvent) -> String {
    let levels = match (attr.privilege.user, attr.privilege.kernel) {
        (true, false) => ":u",
        (false, true) => ":k",
        _ => "",
    };
    format!("{}{levels}", attr.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_name_or_a_code_and_levels() {
        for word in [
            "cycles",
            "instructions:u",
            "r1d1:k",
            "r1d1",
            "ref-cycles",
            "L1-dcache-loads",
            "dTLB-load-misses:u",
        ] {
            let attr = with_levels(word).unwrap();
            assert_eq!(name(&attr), word);
        }
        assert_eq!(with_levels("cycles:uk"), with_levels("cycles"));
        for word in [
            "",
            "cycle",
            "cycles:",
            "cycles:x",
            "r",
            "rxyz",
            "r1f53003c",
            ":u",
        ] {
            assert_eq!(with_levels(word), None, "{word}");
        }
    }
}
