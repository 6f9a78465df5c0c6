//! Programs that serve a device for us, each a process of its own: virtiofsd for files,
//! passt for a network without root.
//!
//! A program is found in `PATH` and where distributions put it, asked for the options
//! that are needed, started with a socket that has no file, and watched. It ends with
//! us, however we end.

mod passt;
mod process;
mod program;
mod virtiofsd;

pub use passt::start as start_passt;
pub use process::BackendProcess;
pub use program::ProgramError;
pub use virtiofsd::{Isolation, SharedFolder, start as start_virtiofsd};
