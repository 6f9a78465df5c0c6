//! Which pages of the guest's memory: one bit for each, its regions one behind the other.

use std::ops::Range;

use crate::sys::guest_ram::PAGE;

const BITS: u64 = 64;
const STEP: usize = 64;

/// A set of pages, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// Adds pages from `first` on, one for each set bit, the lowest bit first.
    pub fn add_bits(&mut self, first: u64, bits: &[u64]) {
        for (at, &word) in (first..).step_by(STEP).zip(bits) {
            let mut left = word;
            while left != 0 {
                self.insert(at + u64::from(left.trailing_zeros()));
                left &= left - 1;
            }
        }
    }

    /// Adds a page.
    pub fn insert(&mut self, page: u64) {
        let word = usize::try_from(page / BITS).unwrap_or(usize::MAX);
        if word >= self.words.len() {
            self.words.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << (page % BITS);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, others) in self.words.iter_mut().zip(&other.words) {
            *mine |= others;
        }
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many bytes they are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len() * PAGE as u64
    }

    /// They as ranges, in their order, neighbours in one.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.ranges_with_gaps(0)
    }

    /// As [`PageSet::ranges`], but no more than `most` (at least one): the narrowest gaps
    /// between pages are filled, until they are few enough.
    #[must_use]
    pub fn few_ranges(&self, most: usize) -> Vec<Range<u64>> {
        let mut gap = 0;
        loop {
            let ranges = self.ranges_with_gaps(gap);
            if ranges.len() <= most.max(1) {
                return ranges;
            }
            gap = gap * 2 + 1;
        }
    }

    fn ranges_with_gaps(&self, gap: u64) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (at, &word) in (0u64..).step_by(STEP).zip(&self.words) {
            let mut left = word;
            while left != 0 {
                let page = at + u64::from(left.trailing_zeros());
                left &= left - 1;
                match ranges.last_mut() {
                    Some(last) if page - last.end <= gap => last.end = page + 1,
                    _ => ranges.push(page..page + 1),
                }
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_numbers_and_ranges() {
        let mut set = PageSet::default();
        assert!(set.is_empty());
        set.add_bits(64, &[0b1011, 1 << 63]);
        set.insert(192);
        let mut other = PageSet::default();
        other.insert(3);
        other.insert(500);
        set.merge(&other);
        let ranges = [3..4, 64..66, 67..68, 191..193, 500..501];
        assert_eq!(set.ranges(), ranges);
        assert_eq!((set.len(), set.bytes()), (7, 7 * 4096));
        assert_eq!(set.few_ranges(4), [3..4, 64..68, 191..193, 500..501]);
        assert_eq!(set.few_ranges(0), std::slice::from_ref(&(3..501)));
        let mut odd = PageSet::default();
        odd.add_bits(3, &[1 | 1 << 63]);
        assert_eq!(odd.ranges(), [3..4, 66..67]);
    }
}
