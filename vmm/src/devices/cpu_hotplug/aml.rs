//! vCPUs in the DSDT (guest-contract §7.2; ACPI 6.5, "Processor Container
//! Device", "Device Insertion, Removal, and Status Objects").
//!
//! ```text
//!  event device ─▶ CPUS.CSCN: for each vCPU: comes? Notify(1), acknowledge
//!                                            is to go? Notify(3), acknowledge
//!  C0nn._STA, _MAT, _EJ0, _OST ─▶ the registers of devices::cpu_hotplug
//! ```
//! All vCPUs share one set of registers: a method holds `CPLK` while it selects a
//! vCPU and uses them.

use acpi_tables::aml::{self, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule};
use acpi_tables::{Aml, AmlSink};
use vpmu::ids::VcpuId;

use super::LEN;
use crate::config::CpusConfig;
use crate::kvm::layout::CPU_HOTPLUG;

/// The method that looks what comes and goes.
pub(super) const SCAN: &str = "\\_SB_.CPUS.CSCN";

const LOCK: &str = "\\_SB_.CPHP.CPLK";
const SELECTED: &str = "\\_SB_.CPHP.CSEL";
const ENABLED: &str = "\\_SB_.CPHP.CPEN";
const INSERTING: &str = "\\_SB_.CPHP.CINS";
const REMOVING: &str = "\\_SB_.CPHP.CRMV";
const EJECT: &str = "\\_SB_.CPHP.CEJE";
const OST_EVENT: &str = "\\_SB_.CPHP.COEV";
const OST_STATUS: &str = "\\_SB_.CPHP.COST";

/// "Local APIC Flags": the vCPU is there.
pub const APIC_ENABLED: u32 = 1;

/// A "Processor Local APIC" entry (ACPI 6.5, "Multiple APIC Description Table").
#[must_use]
pub fn local_apic(cpus: &CpusConfig, vcpu: VcpuId, flags: u32) -> [u8; 8] {
    let apic_id = u8::try_from(cpus.topology.apic_id(vcpu)).unwrap_or(u8::MAX);
    let uid = u8::try_from(vcpu.0).unwrap_or(u8::MAX);
    let [a, b, c, d] = flags.to_le_bytes();
    [0, 8, uid, apic_id, a, b, c, d]
}

/// For ever.
const NO_TIMEOUT: u16 = 0xffff;
/// `Notify` values: look whether it is there; let it go.
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
/// `_STA`: present, enabled, shown, working.
const WORKS: u8 = 0xf;

/// Adds the registers and a device for each vCPU.
pub(super) fn to_aml(cpus: &CpusConfig, sink: &mut dyn AmlSink) {
    let vcpus: Vec<_> = cpus.possible().map(|id| VcpuDevice { id, cpus }).collect();
    let container = Container { vcpus: &vcpus };
    aml::Scope::new("_SB_".into(), vec![&HotplugRegisters, &container]).to_aml_bytes(sink);
}

/// The register block and its fields.
struct HotplugRegisters;

impl Aml for HotplugRegisters {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let len = u32::try_from(LEN).unwrap_or(0);
        let memory = aml::Memory32Fixed::new(true, CPU_HOTPLUG, len);
        let resources = aml::ResourceTemplate::new(vec![&memory]);
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A06"));
        let uid = aml::Name::new("_UID".into(), &"vCPU hot-plug");
        let crs = aml::Name::new("_CRS".into(), &resources);
        let lock = aml::Mutex::new("CPLK".into(), 0);
        let region = aml::OpRegion::new(
            "CPRG".into(),
            aml::OpRegionSpace::SystemMemory,
            &CPU_HOTPLUG,
            &len,
        );
        let select = fields(
            FieldAccessType::DWord,
            &[
                FieldEntry::Named(*b"CSEL", 32),
                FieldEntry::Reserved(32),
                FieldEntry::Named(*b"COST", 32),
            ],
        );
        // What a write does not name must be 0: a 1 there acknowledges.
        let flags = fields(
            FieldAccessType::Byte,
            &[
                FieldEntry::Reserved(32),
                FieldEntry::Named(*b"CPEN", 1),
                FieldEntry::Named(*b"CINS", 1),
                FieldEntry::Named(*b"CRMV", 1),
                FieldEntry::Named(*b"CEJE", 1),
            ],
        );
        let event = fields(
            FieldAccessType::Word,
            &[FieldEntry::Reserved(48), FieldEntry::Named(*b"COEV", 16)],
        );
        let parts: Vec<&dyn Aml> = vec![&hid, &uid, &crs, &lock, &region, &select, &flags, &event];
        aml::Device::new("CPHP".into(), parts).to_aml_bytes(sink);
    }
}

fn fields(access: FieldAccessType, entries: &[FieldEntry]) -> aml::Field {
    aml::Field::new(
        "CPRG".into(),
        access,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        entries.to_vec(),
    )
}

/// The processor container, its methods and the vCPUs.
struct Container<'a> {
    vcpus: &'a [VcpuDevice<'a>],
}

impl Aml for Container<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new("_HID".into(), &"ACPI0010");
        let cid = aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A05"));
        let notify = NotifyMethod(self.vcpus);
        let scan = ScanMethod(u16::try_from(self.vcpus.len()).unwrap_or(u16::MAX));
        let mut parts: Vec<&dyn Aml> = vec![
            &hid,
            &cid,
            &StatusMethod,
            &EjectMethod,
            &OstMethod,
            &notify,
            &scan,
        ];
        parts.extend(self.vcpus.iter().map(|vcpu| vcpu as &dyn Aml));
        aml::Device::new("CPUS".into(), parts).to_aml_bytes(sink);
    }
}

/// A method that selects the vCPU of its first argument, holding the lock.
fn locked(name: &str, args: u8, body: Vec<&dyn Aml>, sink: &mut dyn AmlSink) {
    let acquire = aml::Acquire::new(LOCK.into(), NO_TIMEOUT);
    let selected = aml::Path::new(SELECTED);
    let select = aml::Store::new(&selected, &aml::Arg(0));
    let release = aml::Release::new(LOCK.into());
    let mut all: Vec<&dyn Aml> = vec![&acquire, &select];
    all.extend(body);
    all.push(&release);
    let result = aml::Return::new(&aml::Local(0));
    if name == STATUS {
        all.push(&result);
    }
    aml::Method::new(name.into(), args, true, all).to_aml_bytes(sink);
}

const STATUS: &str = "CSTA";

/// `CSTA(vcpu)`: what `_STA` returns.
struct StatusMethod;

impl Aml for StatusMethod {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let enabled = aml::Path::new(ENABLED);
        let nothing = aml::Store::new(&aml::Local(0), &aml::ZERO);
        let works = aml::Store::new(&aml::Local(0), &WORKS);
        let is_enabled = aml::Equal::new(&enabled, &aml::ONE);
        let look = aml::If::new(&is_enabled, vec![&works]);
        locked(STATUS, 1, vec![&nothing, &look], sink);
    }
}

/// `CEJ0(vcpu)`: lets it go.
struct EjectMethod;

impl Aml for EjectMethod {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let eject = aml::Path::new(EJECT);
        let write = aml::Store::new(&eject, &aml::ONE);
        locked("CEJ0", 1, vec![&write], sink);
    }
}

/// `COS0(vcpu, event, status)`: passes on what the guest reports.
struct OstMethod;

impl Aml for OstMethod {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (event, status) = (aml::Path::new(OST_EVENT), aml::Path::new(OST_STATUS));
        let event = aml::Store::new(&event, &aml::Arg(1));
        let status = aml::Store::new(&status, &aml::Arg(2));
        locked("COS0", 3, vec![&event, &status], sink);
    }
}

/// `CTFY(vcpu, value)`: notifies the device of a vCPU.
struct NotifyMethod<'a>(&'a [VcpuDevice<'a>]);

impl Aml for NotifyMethod<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let cases: Vec<_> = self.0.iter().map(NotifyCase).collect();
        let cases = cases.iter().map(|case| case as &dyn Aml).collect();
        aml::Method::new("CTFY".into(), 2, true, cases).to_aml_bytes(sink);
    }
}

struct NotifyCase<'a>(&'a VcpuDevice<'a>);

impl Aml for NotifyCase<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let is_this = aml::Equal::new(&aml::Arg(0), &self.0.id.0);
        let device = self.0.name();
        let notify = aml::Notify::new(&device, &aml::Arg(1));
        aml::If::new(&is_this, vec![&notify]).to_aml_bytes(sink);
    }
}

/// `CSCN()`: tells the guest of every vCPU that comes or is to go. The
/// acknowledgement is before the guest has done anything (rule G-701).
struct ScanMethod(u16);

impl Aml for ScanMethod {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let acquire = aml::Acquire::new(LOCK.into(), NO_TIMEOUT);
        let release = aml::Release::new(LOCK.into());
        let from = aml::Store::new(&aml::Local(0), &aml::ZERO);
        let selected = aml::Path::new(SELECTED);
        let select = aml::Store::new(&selected, &aml::Local(0));
        let (comes, goes) = (
            Passed(INSERTING, DEVICE_CHECK),
            Passed(REMOVING, EJECT_REQUEST),
        );
        let next = aml::Add::new(&aml::Local(0), &aml::Local(0), &aml::ONE);
        let more = aml::LessThan::new(&aml::Local(0), &self.0);
        let each = aml::While::new(&more, vec![&select, &comes, &goes, &next]);
        let body: Vec<&dyn Aml> = vec![&acquire, &from, &each, &release];
        aml::Method::new("CSCN".into(), 0, true, body).to_aml_bytes(sink);
    }
}

/// If a bit is set: notify the vCPU in `Local0`, acknowledge.
struct Passed(&'static str, u8);

impl Aml for Passed {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let bit = aml::Path::new(self.0);
        let is_set = aml::Equal::new(&bit, &aml::ONE);
        let notify = aml::MethodCall::new("CTFY".into(), vec![&aml::Local(0), &self.1]);
        let acknowledge = aml::Store::new(&bit, &aml::ONE);
        aml::If::new(&is_set, vec![&notify, &acknowledge]).to_aml_bytes(sink);
    }
}

/// One vCPU. The boot CPU has no `_EJ0`: it cannot go.
struct VcpuDevice<'a> {
    id: VcpuId,
    cpus: &'a CpusConfig,
}

impl VcpuDevice<'_> {
    fn name(&self) -> aml::Path {
        aml::Path::new(&format!("C{:03X}", self.id.0 & 0xfff))
    }
}

impl Aml for VcpuDevice<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let number = self.id.0;
        let hid = aml::Name::new("_HID".into(), &"ACPI0007");
        let uid = aml::Name::new("_UID".into(), &number);
        let status = aml::MethodCall::new(STATUS.into(), vec![&number]);
        let status = aml::Return::new(&status);
        let status = aml::Method::new("_STA".into(), 0, true, vec![&status]);
        // Enabled, whatever the MADT says: Linux reads the id here.
        let entry = local_apic(self.cpus, self.id, APIC_ENABLED);
        let entry = aml::BufferData::new(entry.to_vec());
        let entry = aml::Name::new("_MAT".into(), &entry);
        let eject = aml::MethodCall::new("CEJ0".into(), vec![&number]);
        let eject = aml::Method::new("_EJ0".into(), 1, true, vec![&eject]);
        let args: Vec<&dyn Aml> = vec![&number, &aml::Arg(0), &aml::Arg(1)];
        let ost = aml::MethodCall::new("COS0".into(), args);
        let ost = aml::Method::new("_OST".into(), 3, true, vec![&ost]);
        let mut parts: Vec<&dyn Aml> = vec![&hid, &uid, &status, &entry, &ost];
        if number != 0 {
            parts.push(&eject);
        }
        aml::Device::new(self.name(), parts).to_aml_bytes(sink);
    }
}
