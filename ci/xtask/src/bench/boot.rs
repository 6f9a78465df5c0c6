//! What a boot costs: to the first line of the guest's `/init`, and to the first byte of a
//! payload, whose first instruction is its kernel's; and the same boots in QEMU.

use super::Run;
use super::figure::{Figure, Most};
use crate::guest_tests::{GuestTest, Runs};

const INSTRUCTIONS: &str = "instructions";
const PMU: [(&str, &str); 2] = [("on", "type=auto"), ("off", "off")];

/// The forms of a kernel, and the most that is wanted with the PMU on and off: as a
/// microVM monitor of the same guests takes, and a tenth less.
const FORMS: [(&str, &str, [f64; 2]); 2] = [
    ("bzimage", "{vmlinuz-6.12}", [2.213e9, 1.992e9]),
    ("vmlinux", "{kernel-6.12}", [1.457e9, 1.311e9]),
];

/// The most to the first instruction, with the PMU on and off.
const START: [f64; 2] = [5e6, 3e6];

/// Every boot.
pub(super) fn all() -> Vec<Run> {
    let mut all: Vec<Run> = FORMS
        .map(|(form, kernel, most)| boot(form, kernel, most))
        .into();
    all.push(start());
    all.push(peers());
    all
}

/// QEMU's machines.
const PEERS: [&str; 2] = ["q35", "microvm"];

/// What the same boots cost in QEMU, whose guests have no PMU here. The first boot of all
/// loads QEMU from the disk.
fn peers() -> Run {
    let boot = |machine: &str, kernel: &str| {
        format!(
            "{{bench}}until '{FIRST_LINE}' qemu-system-x86_64 -machine {machine} -accel kvm -cpu host \
             -smp 1 -m 512 -nodefaults -no-reboot -display none -serial stdio -kernel {kernel} \
             -initrd {{bench}}init.cpio -append '{WORDS}' "
        )
    };
    let mut lines = format!("{} </dev/null >/dev/null; ", boot(PEERS[0], FORMS[0].1));
    let mut figures = Vec::new();
    for (form, kernel, _) in FORMS {
        for machine in PEERS {
            let name = format!("boot_{form}_{machine}");
            lines += &boot(machine, kernel);
            lines += &named("word", &name);
            figures.push(Figure::new(name, INSTRUCTIONS, None));
        }
    }
    let test = GuestTest {
        runs: Runs::OnHost,
        debian: true,
        peer: true,
        limit: 200,
        ..GuestTest::new("bench/boot/peers", lines, |_, _| Ok(()))
    };
    Run::printed(test, figures)
}

/// The beginning of a line that prints the number called `key` of a VMM: it is started, and
/// ended when it has printed `word`.
pub(super) fn until(word: &str) -> String {
    format!("{{bench}}until '{word}' perfvisor run --serial tty")
}

/// The end of such a line, which names the number.
pub(super) fn named(key: &str, name: &str) -> String {
    format!("</dev/null | sed -n 's/^{key} /bench {name} /p'; ")
}

/// The first line of `first_line`.
const FIRST_LINE: &str = "FIRST LINE OF INIT";

/// What the kernel of a boot is told: no more than where its console is, and to end.
const WORDS: &str = "console=ttyS0 panic=-1";

/// A guest that comes to that line.
pub(super) fn guest(kernel: &str, words: &str) -> String {
    format!(
        "{} --kernel {kernel} --initramfs {{bench}}init.cpio --memory size=512M --cmdline '{words}'",
        until(FIRST_LINE)
    )
}

/// A run with the PMU on and one with it off. `line` makes the line of a figure, whose name
/// and value of `--pmu` it gets; `most` is what is wanted of the two.
fn run(name: &str, figure: &str, most: [f64; 2], line: impl Fn(&str, &str) -> String) -> Run {
    let (mut lines, mut figures) = (String::new(), Vec::new());
    for ((pmu, flag), most) in PMU.into_iter().zip(most) {
        let name = format!("{figure}_pmu_{pmu}");
        lines += &line(&name, flag);
        figures.push(Figure::new(name, INSTRUCTIONS, Some(Most::Value(most))));
    }
    let test = GuestTest {
        runs: Runs::OnHost,
        limit: 120,
        ..GuestTest::new(format!("bench/{name}"), lines, |_, _| Ok(()))
    };
    Run::printed(test, figures)
}

fn boot(form: &str, kernel: &str, most: [f64; 2]) -> Run {
    let guest = guest(kernel, WORDS);
    let line = |name: &str, flag: &str| {
        format!("{guest} --cpus boot=1 --pmu {flag} {}", named("word", name))
    };
    run(&format!("boot/{form}"), &format!("boot_{form}"), most, line)
}

/// Each is run twice: the first run loads what stays loaded.
fn start() -> Run {
    let guest = format!("{} --kernel {{payloads}}hello", until("payload"));
    let line = |name: &str, flag: &str| {
        format!(
            "{guest} --pmu {flag} </dev/null >/dev/null; {guest} --pmu {flag} {}",
            named("first", name)
        )
    };
    run("start", "start_to_first_instruction", START, line)
}
