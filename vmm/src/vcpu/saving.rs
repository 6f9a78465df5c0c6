//! A vCPU and its port in a snapshot: saved on the vCPU's thread, while it stands.

use std::sync::mpsc::Sender;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vpmu::ids::{MsrIndex, VcpuId};

use super::NoAnswer;
use super::port::PortNotSaved;
use super::state::VcpuState;
use super::thread::VcpuThread;
use crate::kvm::{Exit, KvmError, SavedVcpu};

/// The most pieces of one REP OUTS that follow a pause.
const MOST_PIECES: usize = 1 << 16;

/// A vCPU in a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuSection {
    /// Which vCPU it is.
    pub vcpu: u16,
    /// KVM's part.
    pub kvm: SavedVcpu,
    /// The part of its port, which is the port's.
    pub port: Vec<u8>,
}

/// The reason why a vCPU is not saved.
#[derive(Debug, Error)]
pub enum VcpuSaveError {
    /// It does not stand.
    #[error("vCPU {vcpu} runs")]
    Runs {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// It is in the middle of an instruction that reads from a device.
    #[error("vCPU {vcpu} is in the middle of an instruction; try again")]
    Amid {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// KVM does not give its state.
    #[error("KVM does not give the state of vCPU {vcpu}")]
    Kvm {
        /// The vCPU.
        vcpu: VcpuId,
        /// KVM's error.
        source: KvmError,
    },
    /// Its port cannot be saved.
    #[error(transparent)]
    Port(#[from] PortNotSaved),
    /// It does not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

impl VcpuThread {
    /// Sends what the vCPU and its port are. A guest that goes on does not notice.
    ///
    /// Its frame of 70 KiB is no part of the caller's, which would keep a stack of that
    /// size in memory for each vCPU.
    #[cold]
    #[inline(never)]
    pub(super) fn send_saved(
        &mut self,
        state: VcpuState,
        msrs: &[MsrIndex],
        to: &Sender<Result<VcpuSection, VcpuSaveError>>,
    ) {
        // Whoever asked may have given up.
        drop(to.send(self.save(state, msrs)));
    }

    fn save(&mut self, state: VcpuState, msrs: &[MsrIndex]) -> Result<VcpuSection, VcpuSaveError> {
        let vcpu = self.id;
        if state == VcpuState::Running {
            return Err(VcpuSaveError::Runs { vcpu });
        }
        self.complete_exit()?;
        let kvm = self.vcpu.save(msrs);
        Ok(VcpuSection {
            vcpu: vcpu.0,
            kvm: kvm.map_err(|source| VcpuSaveError::Kvm { vcpu, source })?,
            port: self.port.save()?,
        })
    }

    /// KVM completes an exit at the next entry, which is no part of the state: so an entry
    /// that executes nothing completes it here. A WRMSR without an answer is not
    /// completed: in another VM the guest executes it again.
    fn complete_exit(&mut self) -> Result<(), VcpuSaveError> {
        if self.unanswered.is_some() {
            return Ok(());
        }
        let vcpu = self.id;
        for _ in 0..MOST_PIECES {
            self.kicks.hold();
            match self.vcpu.run() {
                Ok(Exit::Interrupted) => return Ok(()),
                // The next piece of a REP OUTS.
                Ok(Exit::PioOut { port, size, data }) => {
                    let stops = || self.stop.reason().is_some();
                    self.buses.write_port(port, data.chunks(size), stops);
                }
                Ok(_) => return Err(VcpuSaveError::Amid { vcpu }),
                Err(source) => return Err(VcpuSaveError::Kvm { vcpu, source }),
            }
        }
        Err(VcpuSaveError::Amid { vcpu })
    }
}
