//! Checks of an event's attributes alone (2.F, checks 2 and 20).

use super::attr::{AttrFlags, ClockId, EventAttr, ReadFormat, sample_type};
use super::error::OpenError;
use super::registry::PmuCaps;

/// Check 2. Linux: `perf_copy_attr`.
pub(super) fn check_attr(attr: &EventAttr) -> Result<(), OpenError> {
    let refuse = |what| Err(OpenError::Attr(what));
    let size = if attr.size == 0 {
        EventAttr::SIZE_VER0
    } else {
        attr.size
    };
    if !(EventAttr::SIZE_VER0..=4096).contains(&size) {
        return Err(OpenError::AttrSize(attr.size));
    }
    if attr.sample_type >= sample_type::MAX {
        return refuse("unknown sample type");
    }
    if !ReadFormat::all().contains(attr.read_format) {
        return refuse("unknown read format");
    }
    let samples = |bit| attr.sample_type & bit != 0;
    // The low three bits only say in which mode to record.
    if samples(sample_type::BRANCH_STACK) && attr.branch_sample_type & !7 == 0 {
        return refuse("branch stack without a kind of branch");
    }
    if (samples(sample_type::REGS_USER) || samples(sample_type::REGS_INTR)) && attr.sample_regs == 0
    {
        return refuse("registers without a register");
    }
    if samples(sample_type::WEIGHT) && samples(sample_type::WEIGHT_STRUCT) {
        return refuse("two kinds of weight");
    }
    if attr.has(AttrFlags::INHERIT_THREAD) && !attr.has(AttrFlags::INHERIT) {
        return refuse("inherit_thread without inherit");
    }
    if attr.has(AttrFlags::REMOVE_ON_EXEC.union(AttrFlags::ENABLE_ON_EXEC)) {
        return refuse("remove_on_exec with enable_on_exec");
    }
    if attr.has(AttrFlags::SIGTRAP) && !attr.has(AttrFlags::REMOVE_ON_EXEC) {
        return refuse("sigtrap without remove_on_exec");
    }
    Ok(())
}

/// Check 20. Linux: `perf_event_set_clock`.
pub(super) fn check_clock(clock: Option<ClockId>, caps: PmuCaps) -> Result<(), OpenError> {
    match clock {
        // Monotonic and raw monotonic are safe in an NMI.
        None | Some(ClockId(1 | 4)) => Ok(()),
        // Realtime, boot time and TAI are not.
        Some(ClockId(0 | 7 | 11)) if caps.contains(PmuCaps::NO_NMI) => Ok(()),
        Some(_) => Err(OpenError::Clock),
    }
}
