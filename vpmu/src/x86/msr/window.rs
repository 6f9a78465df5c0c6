//! The rows of a model by MSR index, in a table that the compiler builds.

use crate::ids::MsrIndex;

use super::row::{Row, RowConfig};

/// A row of a list and the number of one of its registers.
#[derive(Clone, Copy)]
struct WindowEntry {
    row: u8,
    number: u8,
}

const NO_ROW: u8 = u8::MAX;

/// A span of `N` MSR indices from `base` on, with the row of each: a look-up is
/// one load, whatever the number of rows is.
pub(crate) struct Window<const N: usize> {
    base: u32,
    entries: [WindowEntry; N],
}

impl<const N: usize> Window<N> {
    /// The window from `base` on over the rows of a model. Rows outside of it are
    /// left out.
    pub(crate) const fn new<C: RowConfig>(base: u32, rows: &[Row<C>]) -> Self {
        let empty = WindowEntry {
            row: NO_ROW,
            number: 0,
        };
        let mut entries = [empty; N];
        let mut row = 0;
        while row < rows.len() {
            let run = &rows[row].run;
            let mut number = 0;
            while number < run.count {
                let index = run.index(number).0;
                if index >= base && ((index - base) as usize) < N {
                    let entry = &mut entries[(index - base) as usize];
                    assert!(entry.row == NO_ROW, "two rows have the same index");
                    assert!(row < NO_ROW as usize && number <= u8::MAX as u32);
                    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
                    {
                        *entry = WindowEntry {
                            row: row as u8,
                            number: number as u8,
                        };
                    }
                }
                number += 1;
            }
            row += 1;
        }
        Self { base, entries }
    }

    /// The row of `msr` among `rows`, of which the window was made, and the number
    /// of the register in the row's run.
    pub(crate) fn row<'r, C: RowConfig>(
        &self,
        rows: &'r [Row<C>],
        msr: MsrIndex,
    ) -> Option<(&'r Row<C>, u8)> {
        #[cfg(test)]
        tests::note_decode();
        let at = usize::try_from(msr.0.checked_sub(self.base)?).ok()?;
        let entry = self.entries.get(at)?;
        Some((rows.get(usize::from(entry.row))?, entry.number))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! Counts look-ups, for tests that an access makes one.

    extern crate std;

    use core::cell::Cell;

    std::thread_local! {
        static DECODES: Cell<u32> = const { Cell::new(0) };
    }

    pub(super) fn note_decode() {
        DECODES.set(DECODES.get() + 1);
    }

    /// Look-ups of an index by this thread so far.
    pub(crate) fn decodes() -> u32 {
        DECODES.get()
    }
}
