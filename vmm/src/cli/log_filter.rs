//! The environment variable `PERFVISOR_LOG`.

use std::ffi::OsStr;

use log::LevelFilter;

use crate::output::stderr;

/// Its name.
pub const VARIABLE: &str = "PERFVISOR_LOG";
/// What is logged without it.
const DEFAULT: &str = "warn";

/// What to log for this value of [`VARIABLE`]: a level, or several `module=level`
/// and levels with commas between them. A value that has no meaning is told on
/// standard error, and the default is used: `env_logger` would take a misspelt
/// level for the name of a module and log nothing else.
#[must_use]
pub fn log_filter(value: Option<&OsStr>) -> String {
    let value = value.map(OsStr::to_string_lossy).unwrap_or_default();
    if value.is_empty() {
        return DEFAULT.to_owned();
    }
    match value.split(',').find(|part| !is_directive(part)) {
        None => value.into_owned(),
        Some(part) => {
            let whole = if part == value {
                String::new()
            } else {
                format!(" in '{value}'")
            };
            stderr::line(&format!(
                "perfvisor: {VARIABLE}: unknown log level '{part}'{whole}; accepted: off, error, \
                 warn, info, debug, trace; using {DEFAULT}"
            ));
            DEFAULT.to_owned()
        }
    }
}

/// Whether `part` is a level, or a level for one module.
fn is_directive(part: &str) -> bool {
    let level = match part.split_once('=') {
        Some((module, level)) if !module.trim().is_empty() => level,
        _ => part,
    };
    level.trim().parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_with_and_without_a_module() {
        for part in ["off", "Error", " warn", "vmm=info", "vmm::pmu = debug"] {
            assert!(is_directive(part), "{part}");
        }
        for part in ["", "wran", "vmm", "vmm=", "=", "=wran", "1"] {
            assert!(!is_directive(part), "{part}");
        }
        assert_eq!(log_filter(None), "warn");
        assert_eq!(log_filter(Some(OsStr::new(""))), "warn");
        assert_eq!(log_filter(Some(OsStr::new("vmm=info,off"))), "vmm=info,off");
    }
}
