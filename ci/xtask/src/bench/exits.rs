//! What an exit costs: the payload `register_cost` under perfvisor, and, for the floors, under
//! `exit_floor`, a VMM that answers each exit by nothing.

use super::Run;
use super::figure::{Figure, Floor, Most};
use crate::guest_tests::{GuestTest, Runs};

/// A mock of a host PMU with enough counters.
const HOST_PMU: &str = "core:gp=4";

const INSTRUCTIONS: &str = "instructions";

/// Both VMMs start the payload; what the first one prints are floors. Of a guest's `exit=`
/// more is asked than a payload can say.
const LINE: &str = "\
    shown() { sed \"s/^bench /bench $1/; s/^perfvisor.exit=/payload.exit=/\"; }; \
    {bench}exit_floor {payloads}register_cost floor=1 </dev/null | shown floor_; \
    perfvisor run --serial tty --kernel {payloads}register_cost --pmu type=auto,model=intel-v2 </dev/null | shown";

const PIO: Floor = &[("floor_pio_in", 1)];
const RDMSR: Floor = &[("floor_rdmsr_constant_idle", 1)];
const WRMSR: Floor = &[("floor_eventsel_unchanged_idle", 1)];
/// The accesses of the payload's handler.
const HANDLER: Floor = &[
    ("floor_eventsel_unchanged_idle", 4),
    ("floor_rdmsr_constant_idle", 3),
    ("floor_lvtpc", 1),
];
const NONE: Floor = &[];

/// What the payload prints, what it is called in the table, its floor, and the most that is
/// wanted.
type Row = (&'static str, &'static str, Floor, Option<Most>);

const FIGURES: [Row; 20] = [
    ("floor_pio_in", "floor_pio_in", NONE, None),
    ("floor_rdmsr_constant_idle", "floor_rdmsr", NONE, None),
    ("floor_eventsel_unchanged_idle", "floor_wrmsr", NONE, None),
    ("pio_in", "exit_pio_in_nobody", PIO, times(1.10)),
    register("rdmsr_constant_idle", RDMSR, times(1.10)),
    register("rdmsr_constant_running", RDMSR, times(1.15)),
    register("eventsel_unchanged_idle", WRMSR, times(1.10)),
    register("eventsel_unchanged_running", WRMSR, times(1.15)),
    register("global_ctrl_unchanged_idle", WRMSR, times(1.10)),
    register("global_ctrl_unchanged_4", WRMSR, times(1.15)),
    register("global_ctrl_stop_1", WRMSR, times(1.25)),
    register("global_ctrl_start_1", WRMSR, times(1.25)),
    register("global_ctrl_stop_4", WRMSR, times(2.0)),
    register("global_ctrl_start_4", WRMSR, times(2.0)),
    register("counter_read_running", RDMSR, None),
    register("counter_rewrite_running", WRMSR, times(1.3)),
    register("rdpmc_kernel_running", RDMSR, times(1.15)),
    register("rdpmc_user_running", NONE, value(10_000.0)),
    ("pmi_entry", "pmi_entry", NONE, value(12_000.0)),
    ("pmi_handler", "pmi_handler", HANDLER, times(1.15)),
];

const fn times(times: f64) -> Option<Most> {
    Some(Most::Times(times))
}

const fn value(value: f64) -> Option<Most> {
    Some(Most::Value(value))
}

/// A register's, which has a name of its own in the table.
const fn register(key: &'static str, floor: Floor, most: Option<Most>) -> Row {
    (key, "", floor, most)
}

/// Without a host PMU, where the guest's counters are derived from a clock, and with one.
pub(super) fn all() -> Vec<Run> {
    vec![
        run("exits", "", ""),
        run("exits/host-pmu", HOST_PMU, "_host_pmu"),
    ]
}

fn run(name: &str, mock_pmu: &'static str, suffix: &str) -> Run {
    let figures = FIGURES.map(|(key, name, floor, most)| {
        let name = match name {
            "" => format!("msr_exit_{key}{suffix}"),
            name => format!("{name}{suffix}"),
        };
        Figure {
            key: key.into(),
            floor,
            ..Figure::new(name, INSTRUCTIONS, most)
        }
    });
    let test = GuestTest {
        runs: Runs::OnHost,
        mock_pmu,
        limit: 120,
        ..GuestTest::new(format!("bench/{name}"), LINE, |_, _| Ok(()))
    };
    Run::printed(test, figures.into())
}
