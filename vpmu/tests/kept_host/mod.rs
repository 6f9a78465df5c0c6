//! A scripted PMU that stays with the test while a vCPU's PMU has it: for tests and
//! fuzz targets.

use std::cell::RefCell;
use std::rc::Rc;

use vpmu::host::sim::SimPmu;
use vpmu::host::{HostEvent, HostEventId, HostOpenError, HostPmu, NoCounter, ReadError};
use vpmu::units::Count;
use vpmu::x86::event::ArchEventSet;

/// One of two hands on it.
#[derive(Clone, Debug)]
pub(crate) struct Host(pub(crate) Rc<RefCell<SimPmu>>);

impl Host {
    /// Keeps `pmu`.
    pub(crate) fn new(pmu: SimPmu) -> Self {
        Self(Rc::new(RefCell::new(pmu)))
    }
}

impl HostPmu for Host {
    fn supported(&self) -> ArchEventSet {
        self.0.borrow().supported()
    }
    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        self.0.borrow_mut().open(id, attr)
    }
    fn close(&mut self, id: HostEventId) {
        self.0.borrow_mut().close(id);
    }
    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        self.0.borrow_mut().start(id, left)
    }
    fn stop(&mut self, id: HostEventId) {
        self.0.borrow_mut().stop(id);
    }
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        self.0.borrow_mut().read(id)
    }
    fn can_lose(&self) -> bool {
        self.0.borrow().can_lose()
    }
}
