//! Counts the instructions of an operation: the program runs itself under
//! valgrind's callgrind with k and with 2k operations, and the difference over
//! k is the cost of one.

use std::process::Command;

fn instructions(args: &[String], times: usize) -> u64 {
    let exe = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(exe)
        .args(args)
        .arg(times.to_string())
        .output()
        .unwrap_or_else(|e| panic!("valgrind: {e}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|l| l.split("Collected :").nth(1));
    line.unwrap_or_else(|| panic!("{text}"))
        .trim()
        .parse()
        .unwrap()
}

/// Instructions of one operation of this program run with `args` and a number
/// of operations behind them.
pub(crate) fn cost(args: &[String], times: usize) -> u64 {
    let (one, two) = (instructions(args, times), instructions(args, 2 * times));
    two.saturating_sub(one) / times as u64
}
