//! A VM on its way to a folder and back, or to another process: files and bytes, not what
//! they mean.
//!
//! ```text
//! DIR/state     what a VM is besides its memory, in sections by name: see `state_file`
//! DIR/memory    its memory, sparse: a page of zeros is a hole
//! ```
//! A snapshot with a base has the pages alone that were written since. Which they are is in
//! its state, so that a page of zeros is not taken for one that was not written.
//! Each part of a VM writes and reads its own section, and knows alone what is in it.

/// The section with the flags of `perfvisor run`, as `--print-config` prints them.
pub const FLAGS: &str = "flags";

mod folder;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod identity;
mod incoming;
mod sections;
mod state_file;
pub mod stream;

pub use folder::{NewSnapshot, SnapshotError, SnapshotFolder};
pub use identity::{NeededBase, SnapshotId, SnapshotIdentity};
pub use incoming::{IncomingError, IncomingPeer, IncomingVm};
pub use sections::{SectionError, Sections, decode};
pub use state_file::{StateFileError, VERSION};

/// Where a VM comes from that goes on.
#[derive(Debug)]
pub enum SavedVm {
    /// A snapshot.
    Folder(SnapshotFolder),
    /// Another process.
    Incoming(IncomingVm),
}
