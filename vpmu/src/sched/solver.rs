//! Which counters a set of events gets (2.P). Linux: `perf_assign_events`.

/// The counter indices that may host an event, as a bit set: general purpose
/// counters are bits 0 to 31, fixed ones 32 and up.
///
/// # Examples
/// ```
/// use vpmu::sched::solver::{Constraint, assign};
///
/// // Two events that counters 0 and 1 can count, one that only counter 0 can.
/// let events = [0b11, 0b11, 0b01].map(Constraint::of);
/// let mut counters = [0; 3];
/// assert!(!assign(&events, 4, &mut counters));
/// assert!(assign(&events[1..], 4, &mut counters[1..]));
/// assert_eq!(counters[1..], [1, 0]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Constraint {
    /// Permitted indices.
    pub permitted: u64,
    /// The set overlaps others without containing them, so that a wrong first
    /// choice is worth a second one (R-219).
    pub overlap: bool,
}

impl Constraint {
    /// Permits the indices of a bit set.
    #[must_use]
    pub const fn of(permitted: u64) -> Self {
        Self {
            permitted,
            overlap: false,
        }
    }

    /// The same, with backtracking.
    #[must_use]
    pub const fn overlapping(mut self) -> Self {
        self.overlap = true;
        self
    }

    /// How many indices are permitted.
    #[must_use]
    pub const fn weight(self) -> u32 {
        self.permitted.count_ones()
    }
}

/// The most events that are ever on one PMU.
pub const MAX_EVENTS: usize = 64;
/// Bits of the fixed counters.
const FIXED: u64 = !0 << 32;
/// How many choices can be taken back.
const MAX_SAVED: usize = 2;

#[derive(Clone, Copy, Debug, Default)]
struct SolverState {
    /// Place in the order of events.
    at: usize,
    /// First general purpose counter to look at.
    from: u32,
    /// General purpose counters handed out, given back or not (R-220).
    handed_out: u32,
    used: u64,
}

/// Assigns a counter to every event, or to none (vectors: R-228): ascending weight, equal
/// weights in list order, fixed counters first, greedy but for two points of
/// return (R-218…R-222).
///
/// `gp_max` is how many general purpose counters may be handed out (R-221).
/// `assigned` is as long as `constraints` and holds the result on success.
#[must_use]
pub fn assign(constraints: &[Constraint], gp_max: u32, assigned: &mut [u32]) -> bool {
    let n = constraints.len();
    if n > MAX_EVENTS || assigned.len() < n {
        return false;
    }
    let mut order = [0_usize; MAX_EVENTS];
    let mut filled = 0;
    for weight in 0..=64 {
        for (i, c) in constraints.iter().enumerate() {
            if c.weight() == weight {
                order[filled] = i;
                filled += 1;
            }
        }
    }
    let mut state = SolverState::default();
    let mut saved = [SolverState::default(); MAX_SAVED];
    let mut points = 0;
    while state.at < n {
        let event = order[state.at];
        let Some(index) = find(&mut state, constraints[event], gp_max) else {
            if points == 0 {
                return false;
            }
            points -= 1;
            state = saved[points];
            continue;
        };
        if constraints[event].overlap && points < MAX_SAVED && index < 32 {
            let retry = SolverState {
                from: index + 1,
                used: state.used & !(1 << index),
                ..state
            };
            saved[points] = retry;
            points += 1;
        }
        assigned[event] = index;
        state.at += 1;
        state.from = 0;
    }
    true
}

/// Linux: `__perf_sched_find_counter`.
fn find(state: &mut SolverState, constraint: Constraint, gp_max: u32) -> Option<u32> {
    let free = constraint.permitted & !state.used;
    let fixed = free & FIXED;
    // A retry has already had its fixed counter refused.
    let index = if fixed != 0 && state.from == 0 {
        fixed.trailing_zeros()
    } else {
        let gp = free & !FIXED & (u64::MAX.checked_shl(state.from).unwrap_or(0));
        if gp == 0 {
            return None;
        }
        state.handed_out += 1;
        if state.handed_out > gp_max {
            return None;
        }
        gp.trailing_zeros()
    };
    state.used |= 1 << index;
    Some(index)
}

/// Reuses every event's last counter if all have one, it is still permitted,
/// and no two are the same (R-217).
#[must_use]
pub fn reuse(constraints: &[Constraint], last: &[Option<u32>], assigned: &mut [u32]) -> bool {
    let mut used = 0_u64;
    for (i, constraint) in constraints.iter().enumerate() {
        let Some(Some(index)) = last.get(i).copied() else {
            return false;
        };
        let bit = 1_u64 << index;
        if constraint.permitted & bit == 0 || used & bit != 0 {
            return false;
        }
        used |= bit;
        let Some(slot) = assigned.get_mut(i) else {
            return false;
        };
        *slot = index;
    }
    true
}
