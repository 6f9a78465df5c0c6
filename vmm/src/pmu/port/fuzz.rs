//! The port of a vCPU from any bytes, on a host without KVM.

use vpmu::Rules;
use vpmu::guest::{Model, ModelConfig, ModelKind};
use vpmu::host::HostPmu;
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::ids::MsrIndex;

use super::SavedPort;
use crate::error_text::one_line;
use crate::pmu::DynVcpuPmu;
use crate::pmu::lost_reads::LostReads;
use crate::pmu::rdpmc::{SavedText, UserAccess, fuzz_sites};
use crate::snapshot::fuzz::is_one_line;

/// Goes on as the port of these bytes, if it is one, and uses it.
///
/// # Panics
/// If a port that was taken does not work, or a refusal is not one line.
pub(crate) fn port(bytes: &[u8]) {
    let saved = match SavedPort::of(bytes) {
        Ok(saved) => saved,
        Err(error) => return is_one_line(&one_line(&error)),
    };
    for model in ModelKind::ALL.into_iter().filter_map(model) {
        match saved.pmu(model.clone(), host(), Rules::default()) {
            Ok(pmu) => use_it(&model, pmu),
            Err(error) => is_one_line(&one_line(&error)),
        }
    }
    let text = saved.text.map(|text| postcard::to_allocvec(&text));
    let text = text.and_then(Result::ok).unwrap_or_default();
    for access in [UserAccess::Faults, UserAccess::Answered] {
        put_text_back(&text, access);
        let mut lost_reads = LostReads::new(access);
        lost_reads.put_back(saved.lost_reads);
        for _ in 0..3 {
            lost_reads.written();
        }
    }
}

fn model(kind: ModelKind) -> Option<Model> {
    let config = ModelConfig::new(kind, kind.shape(), SoftwarePmu::SUPPORTED);
    config.ok().map(Model::new)
}

fn host() -> Box<dyn HostPmu + Send> {
    Box::new(SoftwarePmu::new(Khz(1_000_000)))
}

/// Each register can be read, and what is saved again is read again.
#[expect(clippy::unwrap_used, reason = "a check")]
fn use_it(model: &Model, mut pmu: DynVcpuPmu) {
    let again = pmu.save();
    let restored = DynVcpuPmu::restore(model.clone(), host(), Rules::default(), &again);
    assert!(restored.unwrap().save() == again, "another state");
    let registers: Vec<MsrIndex> = model.registers().map(|(msr, _)| msr).collect();
    for msr in registers {
        assert!(pmu.rdmsr(msr).is_ok(), "{msr:?}");
    }
}

/// What is taken of the text is what it was, and can be asked for.
#[expect(clippy::unwrap_used, reason = "a check")]
fn put_text_back(bytes: &[u8], access: UserAccess) {
    let Ok(text) = postcard::from_bytes::<SavedText>(bytes) else {
        return;
    };
    let mut sites = fuzz_sites(access).unwrap();
    match sites.put_back(text) {
        Ok(()) => {
            sites.verdict(0x1000);
            let again = postcard::to_allocvec(&sites.saved()).unwrap();
            assert_eq!(again, bytes);
        }
        Err(reason) => is_one_line(reason),
    }
}
