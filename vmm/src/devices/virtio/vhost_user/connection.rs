//! The conversation with a back end.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::GuestMemoryBackend;

use super::super::ActiveQueue;
use super::super::vhost_rings;
use super::fault::BackendFault;
use super::kind::BackendKind;
use super::watch::{BackendWatch, OnLoss};
use crate::sys::guest_ram::GuestRam;

/// How long a back end may take for one talk. It answers at once, but for the end of
/// what it does for the guest at that time, on a disk that is busy.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(60);
/// What a back end is told to be our address of guest address 0. It finds the queues by
/// such addresses and has no other use for them: it need not know the true ones.
const ADDRESS_OFFSET: u64 = 1 << 46;

/// A connection to a back end that has agreed to serve a device.
pub(super) struct BackendConnection {
    frontend: Frontend,
    watch: BackendWatch,
    time: Duration,
    features: u64,
    queues: u16,
    has_acks: bool,
    broken: bool,
}

impl fmt::Debug for BackendConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendConnection")
            .field("features", &self.features)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl BackendConnection {
    /// Agrees with the back end at the other end of `socket` on how to serve a device of
    /// this kind; each talk may take `time`.
    ///
    /// # Errors
    /// If it is none, is not for such a device, or does not answer in time.
    pub(super) fn open_within(
        socket: UnixStream,
        kind: &BackendKind,
        time: Duration,
    ) -> Result<Self, BackendFault> {
        let host = |what| move |source: io::Error| BackendFault::Host { what, source };
        let copy = socket.try_clone().map_err(host("copy a socket"))?;
        let watch = BackendWatch::start(copy).map_err(host("watch a socket"))?;
        let mut connection = Self {
            frontend: Frontend::from_stream(socket, kind.max_queues().into()),
            watch,
            time,
            features: 0,
            queues: kind.max_queues(),
            has_acks: false,
            broken: false,
        };
        connection.negotiate(kind)?;
        Ok(connection)
    }

    fn negotiate(&mut self, kind: &BackendKind) -> Result<(), BackendFault> {
        let mut wanted = VhostUserProtocolFeatures::REPLY_ACK;
        if kind.config_is_theirs() {
            wanted |= VhostUserProtocolFeatures::CONFIG;
        }
        // A network card's queues come in pairs, of which there is one.
        if !matches!(kind, BackendKind::Net { .. }) {
            wanted |= VhostUserProtocolFeatures::MQ;
        }
        let features = self.talk("tell its features", |frontend| {
            frontend.set_owner()?;
            frontend.get_features()
        })?;
        if features & (1 << VIRTIO_F_VERSION_1) == 0 {
            return Err(BackendFault::Lacks("devices of virtio 1"));
        }
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            return Err(BackendFault::Lacks("protocol features"));
        }
        let agreed = self.talk("agree on protocol features", |frontend| {
            let agreed = frontend.get_protocol_features()? & wanted;
            frontend.set_protocol_features(agreed)?;
            Ok(agreed)
        })?;
        if kind.config_is_theirs() && !agreed.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(BackendFault::Lacks("configuration of the device"));
        }
        if agreed.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            self.has_acks = true;
        }
        self.features = features;
        if agreed.contains(VhostUserProtocolFeatures::MQ) {
            self.agree_on_queues(kind)?;
        } else if kind.config_is_theirs() {
            self.queues = 1;
        }
        Ok(())
    }

    fn agree_on_queues(&mut self, kind: &BackendKind) -> Result<(), BackendFault> {
        let has = self.talk("tell its number of queues", |frontend| {
            frontend.get_queue_num()
        })?;
        let needs = u64::try_from(kind.needed_queues().len()).unwrap_or(u64::MAX);
        if has < needs {
            return Err(BackendFault::FewQueues { has, needs });
        }
        self.queues = u16::try_from(has).unwrap_or(u16::MAX).min(self.queues);
        Ok(())
    }

    /// One talk, which ends: by the answers, or by the end of the connection.
    fn talk<T>(
        &mut self,
        what: &'static str,
        talk: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, BackendFault> {
        self.talk_or_fault(
            |frontend| talk(frontend).map_err(|error| BackendFault::of(what, error)),
            what,
        )
    }

    fn talk_or_fault<T>(
        &mut self,
        talk: impl FnOnce(&mut Frontend) -> Result<T, BackendFault>,
        what: &'static str,
    ) -> Result<T, BackendFault> {
        if self.broken {
            return Err(BackendFault::Gone);
        }
        self.watch.begin(self.time);
        let result = talk(&mut self.frontend);
        let missed = self.watch.end();
        match result {
            Ok(value) if !missed => Ok(value),
            Err(fault) if fault.is_drivers() => Err(fault),
            result => {
                // The next answer would be one to another question.
                self.broken = true;
                let seconds = self.time.as_secs();
                match result {
                    Err(fault) if !missed => Err(fault),
                    _ => Err(BackendFault::Silent { what, seconds }),
                }
            }
        }
    }

    /// Has a loss that is found between talks told, once.
    pub(super) fn tell_loss(&self, on_loss: OnLoss) {
        self.watch.tell(on_loss);
    }

    /// The features that the back end offers.
    pub(super) const fn features(&self) -> u64 {
        self.features
    }

    /// How many queues it serves, up to the kind's limit.
    pub(super) const fn queues(&self) -> u16 {
        self.queues
    }

    /// The first bytes of the device's configuration.
    pub(super) fn config(&mut self, len: u32) -> Result<Vec<u8>, BackendFault> {
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        self.talk("tell its configuration", |frontend| {
            let flags = VhostUserConfigFlags::WRITABLE;
            let (_, config) = frontend.get_config(0, len, flags, &zeros)?;
            Ok(config)
        })
    }

    /// Gives the back end the guest's memory and what was agreed with the driver.
    pub(super) fn set_up(&mut self, memory: &GuestRam, features: u64) -> Result<(), BackendFault> {
        let features = features & self.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.talk("take the guest's memory", |frontend| {
            let mut regions = Vec::new();
            for region in memory.iter() {
                let mut info = VhostUserMemoryRegionInfo::from_guest_region(region)?;
                info.userspace_addr = info.guest_phys_addr + ADDRESS_OFFSET;
                regions.push(info);
            }
            frontend.set_features(features)?;
            frontend.set_mem_table(&regions)?;
            Ok(())
        })
    }

    /// Has the back end serve these queues, each from the entry that goes with it.
    pub(super) fn start_queues(
        &mut self,
        memory: &GuestRam,
        queues: &[ActiveQueue],
        bases: &[u16],
    ) -> Result<(), BackendFault> {
        let has_acks = self.has_acks;
        let what = "serve a queue";
        self.talk_or_fault(
            |frontend| {
                let fault = |error| BackendFault::of(what, error);
                for (queue, &base) in queues.iter().zip(bases) {
                    vhost_rings::set_up(frontend, memory, queue, (base, ADDRESS_OFFSET))
                        .map_err(BackendFault::of_ring)?;
                }
                for queue in queues {
                    frontend
                        .set_vring_enable(queue.index.into(), true)
                        .map_err(fault)?;
                }
                if !has_acks {
                    // Its answer comes behind all that it was told.
                    frontend.get_features().map_err(fault)?;
                }
                Ok(())
            },
            what,
        )
    }

    /// Has the back end stop; returns the next entry of each queue.
    pub(super) fn stop_queues(&mut self, queues: &[ActiveQueue]) -> Result<Vec<u16>, BackendFault> {
        self.talk("stop its queues", |frontend| {
            let mut bases = Vec::new();
            for queue in queues {
                let index = usize::from(queue.index);
                frontend.set_vring_enable(index, false)?;
                let base = frontend.get_vring_base(index)?;
                // An entry's index has 16 bits; a higher one is nonsense of the back end.
                bases.push(u16::try_from(base).map_err(|_| {
                    vhost::Error::VhostUserProtocol(vhost::vhost_user::Error::InvalidMessage)
                })?);
            }
            Ok(bases)
        })
    }
}
