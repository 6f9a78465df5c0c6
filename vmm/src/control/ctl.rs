//! `perfvisor ctl`: one request, its answer as text or as it came.

use std::path::Path;
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use super::client::{self, ClientError};
use super::report::ShutdownRequest;
use super::text;
use crate::cli::{CtlArgs, CtlCommand};

/// Runs the subcommand; an error is one line on standard error and status 1.
#[must_use]
pub fn run(args: &CtlArgs) -> ExitCode {
    match answer(args) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            crate::run::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &CtlArgs) -> Result<String, ClientError> {
    let path = Path::new(&args.api_socket);
    let (method, route) = match args.command {
        CtlCommand::Info => ("GET", "/info"),
        CtlCommand::Pmu => ("GET", "/pmu"),
        CtlCommand::Pause => ("PUT", "/pause"),
        CtlCommand::Resume => ("PUT", "/resume"),
        CtlCommand::Shutdown(_) => ("PUT", "/shutdown"),
    };
    let body = match args.command {
        CtlCommand::Shutdown(shutdown) => {
            let force = shutdown.force;
            serde_json::to_string(&ShutdownRequest { force }).unwrap_or_default()
        }
        _ => String::new(),
    };
    let json = client::request(path, method, route, &body)?;
    if args.json {
        return Ok(json);
    }
    match args.command {
        CtlCommand::Info => read(path, &json).map(|info| text::info(&info)),
        CtlCommand::Pmu => read(path, &json).map(|pmu| text::pmu(&pmu)),
        CtlCommand::Pause | CtlCommand::Resume | CtlCommand::Shutdown(_) => {
            read(path, &json).map(|state| text::state(&state))
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path, json: &str) -> Result<T, ClientError> {
    serde_json::from_str(json).map_err(|_| ClientError::NoHttp {
        path: path.to_owned(),
    })
}

/// `println!` would panic on a closed pipe.
fn print(text: &str) {
    use std::io::Write;
    // Nobody reads it: nothing to be done.
    drop(writeln!(std::io::stdout(), "{}", text.trim_end()));
}
