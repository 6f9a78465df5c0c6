//! System calls that std has no safe form of: signals, timers, affinity, the terminal.

pub mod affinity;
pub mod clock;
pub mod kick;
pub mod signals;
pub mod terminal;
pub mod timer;
pub mod umask;
