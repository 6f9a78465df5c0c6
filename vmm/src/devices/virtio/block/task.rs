//! The requests of a driver, one after the other.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vmm_sys_util::epoll::EventSet;

use super::super::queue::{Chain, DeviceQueue, GuestBuffer, QueueFault, pieces, total};
use super::super::worker::{DeviceTask, Progress, WatchedFd};
use super::super::{ConfigInterrupt, QueuePosition};
use super::open::{OpenDisk, SECTOR};
use super::{DiskFull, ID_BYTES, MAX_DISCARD, MAX_ZEROES, id_bytes};
use crate::rate_limit::RateLimit;
use crate::sys::disk_io::Transfer;

/// Requests until the driver is told and the thread looks whether it is to stop.
const TURNS: u32 = 128;
/// Bytes of a request's header: le32 type, le32 reserved, le64 sector.
const HEADER: usize = 16;
/// Bytes that name a range to clear: le64 sector, le32 sectors, le32 flags.
const RANGE: usize = 16;

/// The work of a disk's thread.
#[derive(Debug)]
pub(crate) struct BlockTask {
    name: String,
    queue: DeviceQueue,
    disk: OpenDisk,
    /// Whether each write must last: the driver knows no flush.
    write_through: bool,
    full: Arc<dyn DiskFull>,
    /// Whether the host's disk is full: nothing goes on until the thread starts again.
    stalled: bool,
    interrupt: ConfigInterrupt,
    chain: Chain,
    data: Vec<GuestBuffer>,
}

/// Why a request was not done.
enum RequestFault {
    /// The driver asks for something that cannot be.
    Refused,
    /// The device has no such request.
    Unsupported,
    /// The host refuses it.
    Host(io::Error),
}

impl From<io::Error> for RequestFault {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug)]
struct RequestHeader {
    kind: u32,
    sector: u64,
}

impl BlockTask {
    pub(super) fn new(
        name: String,
        queue: DeviceQueue,
        disk: OpenDisk,
        features: u64,
        full: Arc<dyn DiskFull>,
        interrupt: ConfigInterrupt,
    ) -> Self {
        Self {
            name,
            queue,
            disk,
            write_through: features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            full,
            stalled: false,
            interrupt,
            chain: Chain::default(),
            data: Vec::new(),
        }
    }

    pub(super) const fn disk(&mut self) -> &mut OpenDisk {
        &mut self.disk
    }

    pub(super) fn into_disk(self) -> OpenDisk {
        self.disk
    }

    /// Does the request in the chain; `false` if it must be done again later.
    fn serve(&mut self) -> Result<bool, QueueFault> {
        let mut header = [0; HEADER];
        let read = self.chain.read_at(self.queue.memory(), 0, &mut header);
        let read = read.map_err(|error| self.queue.memory_fault(error))?;
        let room = total(self.chain.writable());
        if read < header.len() || room == 0 {
            let fault = "has no room for a request's header or status";
            return Err(self.queue.chain_fault(fault));
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let header = RequestHeader {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            sector: u64::from_le_bytes(sector),
        };
        // The last writable byte is the status.
        let (written, status) = match self.dispatch(header, room - 1) {
            Ok(written) => (written, VIRTIO_BLK_S_OK),
            Err(RequestFault::Unsupported) => (0, VIRTIO_BLK_S_UNSUPP),
            Err(RequestFault::Refused) => (0, VIRTIO_BLK_S_IOERR),
            Err(RequestFault::Host(error)) => {
                if self.stalls(&error) {
                    return Ok(false);
                }
                self.tell_host_error(header, &error);
                (0, VIRTIO_BLK_S_IOERR)
            }
        };
        // The numbers of statuses are bytes.
        let status = [u8::try_from(status).unwrap_or(u8::MAX)];
        let put = self
            .chain
            .write_at(self.queue.memory(), room - 1, &status)
            .map(drop);
        put.map_err(|error| self.queue.memory_fault(error))?;
        self.queue.give(&self.chain, written + 1)?;
        Ok(true)
    }

    /// Does a request; returns how many bytes of data the driver gets.
    fn dispatch(&mut self, header: RequestHeader, room: u64) -> Result<u32, RequestFault> {
        let writes = matches!(
            header.kind,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
        );
        if writes && self.disk.read_only {
            return Err(RequestFault::Refused);
        }
        match header.kind {
            VIRTIO_BLK_T_IN => {
                self.data.clear();
                let len = usize::try_from(room).unwrap_or(usize::MAX);
                self.data.extend(pieces(self.chain.writable(), 0, len));
                self.transfer(Transfer::Read, header.sector)?;
                // A chain has fewer than 2³² bytes.
                Ok(u32::try_from(room).unwrap_or_default())
            }
            VIRTIO_BLK_T_OUT => {
                self.data.clear();
                let data = pieces(self.chain.readable(), HEADER as u64, usize::MAX);
                self.data.extend(data);
                self.transfer(Transfer::Write, header.sector)?;
                self.settle()
            }
            VIRTIO_BLK_T_FLUSH => {
                if !self.disk.read_only {
                    self.disk.image.flush()?;
                }
                Ok(0)
            }
            VIRTIO_BLK_T_GET_ID => {
                let id = id_bytes(&self.disk.serial);
                let len = usize::try_from(room).map_or(ID_BYTES, |room| room.min(ID_BYTES));
                let id = id.get(..len).unwrap_or_default();
                let written = self.chain.write_at(self.queue.memory(), 0, id);
                let written = written.map_err(|_| RequestFault::Refused)?;
                Ok(u32::try_from(written).unwrap_or_default())
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => self.clear(header.kind),
            _ => Err(RequestFault::Unsupported),
        }
    }

    /// Moves the data, if the disk has such a range.
    fn transfer(&mut self, way: Transfer, sector: u64) -> Result<(), RequestFault> {
        let offset = self.checked_offset(sector, total(&self.data))?;
        let memory = self.queue.memory();
        let image = &mut self.disk.image;
        Ok(image.transfer(way, memory, &self.data, offset)?)
    }

    /// The first byte of a range of the disk, if all of it is in the disk.
    fn checked_offset(&self, sector: u64, len: u64) -> Result<u64, RequestFault> {
        let image = &self.disk.image;
        let mask = u64::from(image.block_size()) - 1;
        let offset = sector.checked_mul(SECTOR).ok_or(RequestFault::Refused)?;
        let end = offset.checked_add(len).ok_or(RequestFault::Refused)?;
        if (offset | len) & mask != 0 || end > image.size() {
            return Err(RequestFault::Refused);
        }
        Ok(offset)
    }

    /// Makes a write last if nobody will ask for it.
    fn settle(&mut self) -> Result<u32, RequestFault> {
        if self.write_through {
            self.disk.image.flush()?;
        }
        Ok(0)
    }

    fn clear(&mut self, kind: u32) -> Result<u32, RequestFault> {
        let mut range = [0; RANGE];
        let memory = self.queue.memory();
        let read = self.chain.read_at(memory, HEADER as u64, &mut range);
        let read = read.map_err(|_| RequestFault::Refused)?;
        // One range: more are more than the configuration allows.
        if read < RANGE || total(self.chain.readable()) != (HEADER + RANGE) as u64 {
            return Err(RequestFault::Refused);
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7, count @ .., f0, f1, f2, f3] = range;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes(count);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let len = u64::from(count) * SECTOR;
        let offset = self.checked_offset(sector, len)?;
        let image = &mut self.disk.image;
        // Bit 0: the range may be given back. The other bits are not defined.
        match (kind, flags) {
            (_, 2..) | (VIRTIO_BLK_T_DISCARD, 1) => return Err(RequestFault::Unsupported),
            (VIRTIO_BLK_T_DISCARD, _) if count <= MAX_DISCARD => {
                if len > 0 {
                    image.discard(offset, len)?;
                }
            }
            (VIRTIO_BLK_T_WRITE_ZEROES, flags) if count <= MAX_ZEROES => {
                if len > 0 {
                    image.write_zeroes(offset, len, flags == 1)?;
                }
            }
            _ => return Err(RequestFault::Refused),
        }
        self.settle()
    }

    /// Whether the host's disk is full: the VM is told to pause.
    fn stalls(&mut self, error: &io::Error) -> bool {
        if !matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        ) {
            return false;
        }
        self.stalled = true;
        let path = self.disk.path.display();
        self.full.pause(format!(
            "the host has no room for {} ({path}): {error}; make room, then resume",
            self.name
        ));
        true
    }

    fn tell_host_error(&self, header: RequestHeader, error: &io::Error) {
        static LIMIT: RateLimit = RateLimit::new();
        if let Some(swallowed) = LIMIT.allow() {
            log::warn!(
                "{}: {}: a request (type {}, sector {}) failed: {error}{swallowed}",
                self.name,
                self.disk.path.display(),
                header.kind,
                header.sector
            );
        }
    }
}

impl DeviceTask for BlockTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) {
        self.stalled = false;
    }

    fn watched(&self) -> Vec<WatchedFd> {
        vec![WatchedFd {
            fd: self.queue.kick().as_raw_fd(),
            events: EventSet::IN,
            token: 0,
        }]
    }

    fn ready(&mut self, _token: u64, _events: u32) {}

    fn work(&mut self) -> Result<Progress, QueueFault> {
        let mut turns = 0;
        while turns < TURNS && !self.stalled {
            if !self.queue.next(&mut self.chain)? {
                // Those that are done are the driver's before it may be asked to wait.
                if self.queue.await_kick()? {
                    continue;
                }
                break;
            }
            turns += 1;
            if !self.serve()? {
                self.queue.put_back();
            }
        }
        self.queue.tell_driver()?;
        Ok(Progress::more_if(turns == TURNS && !self.stalled))
    }

    fn interrupt(&self) -> &ConfigInterrupt {
        &self.interrupt
    }

    fn positions(&self) -> Vec<QueuePosition> {
        vec![self.queue.position(false)]
    }
}
