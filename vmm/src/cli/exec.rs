//! The flags of `perfvisor exec`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::help;

/// The PMU of a guest for which nobody asks for another.
pub const DEFAULT_PMU: &str = "type=auto";

/// The flags of `perfvisor exec`, as text, and the command.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Kernel of the guest: host, or the path of a Linux bzImage
    #[arg(long, value_name = "host|PATH", default_value = "host", long_help = help::EXEC_KERNEL)]
    pub kernel: OsString,

    /// Virtual CPUs: a number, or options as in perfvisor run [default: the host's, at most 4]
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,

    /// Memory, with the suffix K, M or G [default: 1G, or half of the host's if that is less]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,

    /// The guest's PMU, as in perfvisor run (see perfvisor run --help)
    #[arg(long, value_name = "OPTIONS", default_value = DEFAULT_PMU)]
    pub pmu: String,

    /// A folder that the command may write to, at the same path; may be repeated
    #[arg(long, value_name = "DIR")]
    pub rw: Vec<PathBuf>,

    /// A folder that the command sees, at the same path, and cannot write to; may be repeated
    #[arg(long, value_name = "DIR")]
    pub ro: Vec<PathBuf>,

    /// The guest's root file system: a folder of the host
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// The user that runs the command, of the guest's /etc/passwd [default: the caller]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// A variable for the command: NAME=VALUE, or NAME with the caller's value; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,

    /// Give the guest a network: user, which is passt and needs no root
    #[arg(long, value_name = "user", value_parser = ["user"])]
    pub net: Option<String>,

    /// End the command after this time, with the suffix s, m or h (seconds without); status 124
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,

    /// Run the command under perf record and draw its profile as a flame graph (SVG)
    #[arg(long, value_name = "FILE")]
    pub flamegraph: Option<PathBuf>,

    /// Show the guest kernel's messages and Perfvisor's own on standard error
    #[arg(long)]
    pub verbose: bool,

    /// KVM device
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub kvm_device: PathBuf,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// A time as timeout(1) takes it.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 's')) => (text.get(..at), 1.0),
        Some((at, 'm')) => (text.get(..at), 60.0),
        Some((at, 'h')) => (text.get(..at), 3600.0),
        _ => (Some(text), 1.0),
    };
    let number = digits.and_then(|digits| digits.parse::<f64>().ok());
    number
        .filter(|number| *number > 0.0)
        .and_then(|number| Duration::try_from_secs_f64(number * unit).ok())
        .ok_or_else(|| "expected: a time above 0, such as 30, 1.5s, 10m or 2h".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(words: &[&str]) -> Result<ExecArgs, clap::Error> {
        let words = ["perfvisor", "exec"].iter().chain(words);
        match Cli::try_parse_from(words)?.command {
            Command::Exec(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flags_of_the_command_are_its_own() {
        let args = parse(&["--cpus", "2", "--", "perf", "stat", "--verbose", "--", "ls"]).unwrap();
        assert_eq!(args.command, ["perf", "stat", "--verbose", "--", "ls"]);
        assert!(!args.verbose);
        let args = parse(&["perf", "record", "-g", "ls"]).unwrap();
        assert_eq!(args.command, ["perf", "record", "-g", "ls"]);
        assert!(parse(&["--cpus", "2"]).is_err());
        // A misspelt flag is no command.
        for words in [&["--bogus", "--", "ls"][..], &["--bogus", "ls"], &["-x"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        let args = parse(&["--", "-x", "--bogus"]).unwrap();
        assert_eq!(args.command, ["-x", "--bogus"]);
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("2", 2.0), ("1.5s", 1.5), ("10m", 600.0), ("2h", 7200.0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs_f64(seconds)));
        }
        for text in ["", "0", "-1", "x", "5d", "inf", "nan", "1e300"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
