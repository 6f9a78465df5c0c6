//! `vpmu-sim`: runs scenario files of the perf oracle on a virtual clock with
//! simulated PMUs, and prints one result line a file.

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
       vpmu-sim --timeline [--trace OUT.json] FILE

Runs scenarios (docs/scenario.md) and prints one result line each.
  --timeline     draw who was on which counter when, instead of the result
  --trace OUT    also write the timeline as a Chrome trace, which Perfetto opens
  --designated   bind scoped events to the designated CPU, as Perfvisor does,
                 instead of what Linux 6.12 does
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

/// The result line of a file, and what was on when.
fn run(file: &str, designated: bool) -> (String, Recorder) {
    let mut recorder = Recorder::default();
    let line = match std::fs::read_to_string(file) {
        Err(e) => output::fatal(file, &e.to_string()),
        Ok(text) => match Scenario::parse(&text) {
            Err(e) => output::fatal(file, &e),
            Ok(scenario) => match SimMachine::new(&scenario, designated) {
                Err(e) => output::fatal(&scenario.name, &e),
                Ok(mut machine) => {
                    let line = match machine.run(&scenario, &mut recorder) {
                        Ok(steps) => output::result(&scenario.name, &steps),
                        Err(e) => output::fatal(&scenario.name, &e),
                    };
                    recorder.finish(&machine);
                    line
                }
            },
        },
    };
    (line, recorder)
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
        let (line, recorder) = run(file, options.designated);
        failed |= line.contains("\"fatal\":");
        let text = if options.timeline && !line.contains("\"fatal\":") {
            recorder.draw()
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
