//! System calls for which std has no safe function: signals, kicks of a thread, clocks and timers, affinity, files, the file mode mask, the terminal.

pub mod affinity;
pub mod clock;
pub mod files;
pub mod kick;
pub mod signals;
pub mod terminal;
pub mod timer;
pub mod umask;
