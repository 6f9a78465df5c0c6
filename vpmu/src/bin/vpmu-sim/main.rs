//! `vpmu-sim`: runs scenario files of the perf oracle on a virtual clock with
//! simulated PMUs, and prints one result line for each file.
//!
//! Results are on stdout, all errors on stderr.

mod machine;
mod output;
mod scenario;
mod steps;
mod timeline;

use std::io::Write;
use std::process::ExitCode;

use machine::SimMachine;
use scenario::Scenario;
use timeline::Recorder;

const USAGE: &str = "usage: vpmu-sim [--designated] FILE...
       vpmu-sim --timeline [--trace OUT.json] [--designated] FILE...

Runs each scenario FILE through the scheduler of vpmu::sched, with simulated
PMUs and a virtual clock. Prints one line of JSON for each scenario, in the
order of the files. vpmu/docs/scenario.md describes scenarios and results.

options:
  --timeline        print a timeline instead of the line of JSON: which event
                    was on which counter when; then the time enabled, the time
                    running, and the percentage of each event
  --trace OUT.json  also write the timeline to OUT.json as a Chrome trace, which
                    Perfetto opens; needs --timeline and exactly one FILE
  --designated      treat events of a PMU that several CPUs share as Perfvisor
                    does: bind each to the CPU that the PMU has designated in
                    the scope, and lose none when a CPU goes offline. Without
                    this option they are treated as by Linux 6.12: each stays
                    on the CPU that it was opened on
  -h, --help        print this text

A FILE that cannot be run is reported on stderr; the other files still run.
Exit status: 0 if all files ran, 1 if any file could not be run or written, 2 if
the command line is wrong.
";

#[derive(Debug, Default)]
struct SimOptions {
    timeline: bool,
    trace: Option<String>,
    designated: bool,
    files: Vec<String>,
}

fn parse() -> Result<SimOptions, String> {
    let mut options = SimOptions::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--timeline" => options.timeline = true,
            "--designated" => options.designated = true,
            "--trace" => options.trace = Some(args.next().ok_or("--trace needs a file name")?),
            "-h" | "--help" => return Err(String::new()),
            a if a.starts_with("--") => return Err(format!("unknown option {a}")),
            _ => options.files.push(arg),
        }
    }
    if options.files.is_empty() {
        return Err("no scenario file given".into());
    }
    if options.trace.is_some() && (!options.timeline || options.files.len() != 1) {
        return Err("--trace needs --timeline and exactly one FILE".into());
    }
    Ok(options)
}

/// Runs a scenario file: its result line, and which event was on which counter when.
///
/// # Errors
/// The file cannot be read, is no scenario, or has a step that cannot be executed.
fn run(file: &str, designated: bool) -> Result<(String, Recorder), String> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let scenario = Scenario::parse(&text)?;
    let named = |e: String| format!("scenario {}: {e}", scenario.name);
    let mut recorder = Recorder::default();
    let mut machine = SimMachine::new(&scenario, designated).map_err(named)?;
    let steps = machine.run(&scenario, &mut recorder).map_err(named)?;
    recorder.finish(&machine);
    Ok((output::result(&scenario.name, &steps), recorder))
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(o) => o,
        Err(e) => {
            if e.is_empty() {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            eprintln!("vpmu-sim: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    let mut out = std::io::stdout().lock();
    for file in &options.files {
        let (line, recorder) = match run(file, options.designated) {
            Ok(ran) => ran,
            Err(e) => {
                eprintln!("vpmu-sim: {file}: {e}");
                failed = true;
                continue;
            }
        };
        let text = if options.timeline {
            recorder.timeline()
        } else {
            line
        };
        if writeln!(out, "{text}").is_err() {
            return ExitCode::FAILURE;
        }
        if let Some(path) = &options.trace
            && let Err(e) = std::fs::write(path, recorder.chrome_trace())
        {
            eprintln!("vpmu-sim: {path}: {e}");
            failed = true;
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
