//! Which counter an event gets.

use alloc::vec::Vec;

/// The preferred free counter: fixed first, then general purpose ascending.
pub(super) fn take(allowed: u64, used: &mut u64) -> Option<u32> {
    let free = allowed & !*used;
    let fixed = free >> 32 << 32;
    let choice = if fixed != 0 { fixed } else { free };
    if choice == 0 {
        return None;
    }
    let counter = choice.trailing_zeros();
    *used |= 1 << counter;
    Some(counter)
}

/// Whether sets of counters have distinct representatives (augmenting paths).
#[derive(Debug, Default)]
pub(super) struct Matching {
    sets: Vec<u64>,
    owner: Vec<Option<usize>>,
}

impl Matching {
    pub(super) fn feasible(&mut self, sets: impl Iterator<Item = u64>) -> bool {
        self.sets.clear();
        self.sets.extend(sets);
        self.owner.clear();
        self.owner.resize(64, None);
        (0..self.sets.len()).all(|i| self.augment(i, &mut 0))
    }

    fn augment(&mut self, i: usize, seen: &mut u64) -> bool {
        for c in 0..64_usize {
            let bit = 1_u64 << c;
            if self.sets[i] & bit == 0 || *seen & bit != 0 {
                continue;
            }
            *seen |= bit;
            let free = match self.owner[c] {
                None => true,
                Some(other) => self.augment(other, seen),
            };
            if free {
                self.owner[c] = Some(i);
                return true;
            }
        }
        false
    }
}
