//! The uncore PMUs of a VM whose vCPUs leave and end, with guests of a few
//! instructions on `/dev/kvm` and scripted host PMUs: counters follow a vCPU that
//! is ejected, and the end of the VM moves nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use common::{Code, Guest, PATIENCE};
use vmm::cli::{Cli, Command};
use vmm::machine::{Machine, MachineControl};
use vmm::pmu::{
    HostCpus, PmuPlan, SharedUncore, UncoreChange, UncoreCounterState, UncorePlan, VcpuTimes,
};
use vmm::stop::StopReason;
use vpmu::host::linux::sysfs::Sysfs;
use vpmu::host::sim_uncore::SimUncore;
use vpmu::ids::VcpuId;
use vpmu::uncore::UncoreModel;

/// vCPU 0 starts the first counter of a memory controller. Then it looks at the
/// hot-plug registers of vCPU 2 for ever, and ejects it when it is asked to.
fn guest() -> Code {
    Code::default()
        // mov ecx, 0xc0010800; mov eax, 1 << 31 | 1; xor edx, edx; wrmsr
        .raw(&[0xb9, 0x00, 0x08, 0x01, 0xc0])
        .raw(&[0xb8, 0x01, 0x00, 0x00, 0x80, 0x31, 0xd2, 0x0f, 0x30])
        // mov edi, registers
        .raw(&[0xbf, 0x00, 0x00, 0x00, 0xfd])
        // again: mov dword [rdi], 2; mov al, [rdi+4]; test al, 4; jz again
        .raw(&[0xc7, 0x07, 0x02, 0, 0, 0, 0x8a, 0x47, 0x04, 0xa8, 0x04])
        .raw(&[0x74, 0xf3])
        // mov byte [rdi+4], 4; mov byte [rdi+4], 8: seen, ejected; jmp again
        .raw(&[0xc6, 0x47, 0x04, 0x04, 0xc6, 0x47, 0x04, 0x08, 0xeb, 0xe9])
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A VM of two packages of two vCPUs each, with one memory controller in each.
/// Once its counter counts, `operator` does something to it; then it is ended.
/// `None` where there is no KVM.
fn run(name: &str, operator: impl Fn(&MachineControl) + Send) -> Option<Arc<SharedUncore>> {
    let guest = Guest::new(&format!("uncore-{name}"), &guest())?;
    let kernel = guest.0.display().to_string();
    let line = [
        "perfvisor run --memory size=16M --serial null --pmu type=software,model=intel-v4",
        "--cpus boot=4,max=4,topology=1:2:1:2 --kernel",
    ];
    let line = line.iter().flat_map(|part| part.split(' '));
    let cli = Cli::try_parse_from(line.chain([kernel.as_str()])).unwrap();
    let Command::Run(args) = cli.command else {
        panic!("it is run");
    };
    let config = args.vm_config().unwrap();
    let plan = UncorePlan {
        model: UncoreModel::default().with_umc(1).unwrap(),
        hosts: Box::new(|_| Box::new(SimUncore::default())),
        times: Arc::new(VcpuTimes::new(4)),
    };
    let sysfs = Sysfs::default();
    let pmu = PmuPlan::new(&config.pmu, &config.cpus, &sysfs, &HostCpus::read(&sysfs)).unwrap();
    let pmu = pmu.unwrap().with_uncore(&plan, &config.cpus).unwrap();
    let uncore = pmu.uncore().unwrap();
    let machine = Machine::build(
        &config,
        pmu.hooks().unwrap(),
        vmm::machine::MachineExtras::none().unwrap(),
    )
    .unwrap();
    let control = machine.control();
    thread::scope(|scope| {
        let watched = Arc::clone(&uncore);
        scope.spawn(move || {
            // The VM ends whatever becomes of this thread.
            let stop = Arc::clone(&control.stop);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                wait_for("the counter counts", || counters(&watched)[0].is_some());
                operator(&control);
            }));
            stop.stop(StopReason::ApiShutdown);
            outcome.unwrap();
        });
        assert!(matches!(*machine.run(), StopReason::ApiShutdown));
    });
    Some(uncore)
}

/// The vCPU that the counter's event is on, by package.
fn counters(uncore: &SharedUncore) -> [Option<u16>; 2] {
    let status = uncore.status();
    [0, 1].map(|n| {
        let counter = status.pmus[0].instances[n].counters.first()?;
        assert_eq!(counter.state, UncoreCounterState::Counting);
        counter.vcpu
    })
}

/// What happened to designated vCPUs and counters.
fn log(uncore: &SharedUncore) -> Vec<(UncoreChange, Option<u16>, Option<u16>)> {
    let log = uncore.status().log;
    log.iter().map(|e| (e.change, e.from, e.to)).collect()
}

#[test]
fn the_end_of_a_vm_moves_nothing() {
    let Some(uncore) = run("end", |_| {}) else {
        return;
    };
    assert_eq!(log(&uncore), []);
    assert_eq!(counters(&uncore), [Some(0), None]);
}

#[test]
fn an_ejected_vcpu_gives_its_place_to_another_and_the_end_moves_nothing() {
    let remove = |control: &MachineControl| {
        control.hotplug.remove(VcpuId(2)).unwrap();
        wait_for("vCPU 2 is ejected", || {
            let report = control.hotplug.report(VcpuId(2)).unwrap();
            report.presence == vmm::vcpu::presence::Presence::Absent
        });
    };
    let Some(uncore) = run("eject", remove) else {
        return;
    };
    let moved = (UncoreChange::Designated, Some(2), Some(3));
    assert_eq!(log(&uncore), [moved]);
    assert_eq!(counters(&uncore), [Some(0), None]);
}
