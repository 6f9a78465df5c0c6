//! The long help of flags about the pages that a guest has written.

/// `ctl snapshot --base`.
pub(super) const BASE: &str = "\
Save only the memory that was written since the snapshot in DIR.

DIR is the last snapshot of this VM that was taken with --track or --base, at the place where it
will be when the new one is restored: that needs both folders, unchanged. At most 64 snapshots
need each other so. The new one can be a base in turn.";

/// `ctl snapshot --track`.
pub(super) const TRACK: &str = "\
Let this snapshot be the base of the next one: from now on it is noted which pages are written,
which costs the guest one fault for each page after each snapshot. A snapshot without --track and
--base ends that.";
