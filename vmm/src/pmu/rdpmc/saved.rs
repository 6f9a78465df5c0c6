//! What is known of a guest's text, in a snapshot. The text itself is in the guest's memory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::known::Known;
use super::rewriter::Rewriter;
use super::{Sites, UserAccess};

/// The rewritten places of a guest, on a host that treats RDPMC so.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::pmu) struct SavedText {
    access: UserAccess,
    known: Known,
}

impl Sites {
    /// The places of the VM.
    pub(in crate::pmu) fn saved(&self) -> SavedText {
        SavedText {
            access: self.rewriter.access,
            known: Known::clone(&self.rewriter.current()),
        }
    }

    /// Goes on with them, before a vCPU runs.
    ///
    /// # Errors
    /// If they are no guest's, or this host treats RDPMC otherwise: then readers that need
    /// nothing there are not served here.
    pub(in crate::pmu) fn put_back(&self, saved: SavedText) -> Result<(), &'static str> {
        self.rewriter.put_back(saved)
    }
}

impl Rewriter {
    fn put_back(&self, saved: SavedText) -> Result<(), &'static str> {
        if saved.access != self.access {
            return Err(
                "its host answered RDPMC otherwise than this one (perfvisor doctor tells how)",
            );
        }
        if !saved.known.is_possible() {
            return Err("its list of rewritten instructions is damaged");
        }
        self.replace(Arc::new(saved.known));
        Ok(())
    }
}
