//! The mock host PMU (`resources/mock-pmu`): its parameter, and its build for a
//! nested host's kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::kernels::Kernel;
use crate::{cmd, headers, paths};

/// Where the module lies in the nested host.
pub(crate) const MODULE: &str = "modules/mock_pmu.ko";
/// Where its test lies there.
pub(crate) const SELF_TEST: &str = "bin/mock-pmu-test";

/// Which PMUs there are to be; the module reads the same words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    text: String,
    least_cpus: u32,
}

impl Spec {
    /// The module's parameter.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The fewest CPUs that have these PMUs.
    pub(crate) fn least_cpus(&self) -> u32 {
        self.least_cpus
    }
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut cores = Vec::new();
        let mut least_cpus = 1;
        for part in text.split('+') {
            let (kind, options) = part.split_once(':').unwrap_or((part, ""));
            match kind {
                "core" | "hybrid" => cores.push(kind),
                "uncore" => {}
                _ => bail!("`{kind}`: core, hybrid or uncore, with `+` between several"),
            }
            for option in options.split(':').filter(|o| !o.is_empty()) {
                check_option(kind, option)?;
            }
            if kind == "hybrid" {
                least_cpus = 2 * cpus_of_a_kind(options);
            }
        }
        ensure!(
            cores.len() < 2,
            "`{}`: one of core and hybrid is the most",
            cores.join("+")
        );
        Ok(Self {
            text: text.to_owned(),
            least_cpus,
        })
    }
}

/// How many CPUs each PMU of a hybrid host has.
fn cpus_of_a_kind(options: &str) -> u32 {
    const UNLESS_TOLD: u32 = 2;
    let mut told = options.split(':').filter_map(|o| o.strip_prefix("cpus="));
    told.next_back()
        .and_then(|n| n.parse().ok())
        .unwrap_or(UNLESS_TOLD)
}

fn check_option(kind: &str, option: &str) -> Result<()> {
    const COUNTERS: std::ops::RangeInclusive<u32> = 1..=32;
    const CPUS: std::ops::RangeInclusive<u32> = 1..=32;
    const SCOPES: [&str; 5] = ["core", "die", "cluster", "package", "system"];
    const NAMES: [&str; 3] = ["power", "amd_l3", "amd_df"];
    let is_umc = |name: &str| {
        let number = name.strip_prefix("amd_umc_");
        number.is_some_and(|number| number.parse::<u8>().is_ok())
    };
    match option.split_once('=') {
        Some(("gp", n)) if n.parse().is_ok_and(|n| COUNTERS.contains(&n)) => Ok(()),
        Some(("cpus", n)) if kind == "hybrid" && n.parse().is_ok_and(|n| CPUS.contains(&n)) => {
            Ok(())
        }
        Some(("scope", scope)) if kind == "uncore" && SCOPES.contains(&scope) => Ok(()),
        Some(("name", name)) if kind == "uncore" && (NAMES.contains(&name) || is_umc(name)) => {
            Ok(())
        }
        _ if kind == "uncore" => bail!(
            "`{option}`: gp=1 to gp=32, scope= and one of {}, or name= and one of {}, amd_umc_N",
            SCOPES.join(", "),
            NAMES.join(", ")
        ),
        Some(("cache", "on" | "off")) if kind == "core" => Ok(()),
        _ if kind == "hybrid" => bail!("`{option}`: gp=1 to gp=32, cpus=1 to cpus=32"),
        _ => bail!("`{option}`: gp=1 to gp=32, cache=on or cache=off"),
    }
}

/// The files that the module and its test are made of.
pub(crate) fn sources() -> Result<Vec<PathBuf>> {
    let dir = paths::resource("mock-pmu");
    let read = || format!("cannot read {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).with_context(read)? {
        let path = entry.with_context(read)?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if matches!(extension, Some("c" | "h")) || path.ends_with("Kbuild") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// The kernel module.
    pub(crate) module: PathBuf,
    /// The static program that tests it.
    pub(crate) self_test: PathBuf,
}

/// Builds the module for a kernel, and the program that tests it.
///
/// # Errors
/// If the headers cannot be had or the compiler complains.
pub(crate) fn build(kernel: &Kernel) -> Result<Built> {
    let headers = headers::fetch(kernel)?;
    let dir = paths::cache("mock-pmu")?.join(&kernel.series);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    for source in sources()? {
        let name = source.file_name().unwrap_or_default();
        fs::copy(&source, dir.join(name))
            .with_context(|| format!("cannot copy {}", source.display()))?;
    }
    let mut make = Command::new("make");
    make.env_remove("MAKEFLAGS")
        .args(["-s", "-C"])
        .arg(&headers)
        .arg(format!("M={}", dir.display()))
        .args(["KCFLAGS=-Werror", "modules"]);
    cmd::long(
        &format!("building the mock PMU for {}", kernel.series),
        || cmd::output(&mut make).context("the mock PMU does not build"),
    )?;
    let self_test = self_test(&dir)?;
    Ok(Built {
        module: dir.join("mock_pmu.ko"),
        self_test,
    })
}

fn self_test(dir: &Path) -> Result<PathBuf> {
    let program = dir.join("mock-pmu-test");
    let mut gcc = Command::new("gcc-12");
    gcc.args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(dir.join("test.c"));
    cmd::output(&mut gcc).context("the mock PMU's test does not build")?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read() {
        for (text, cpus) in [
            ("core", 1),
            ("core:gp=4", 1),
            ("core:gp=4:cache=off", 1),
            ("hybrid:gp=6", 4),
            ("hybrid:gp=6:cpus=1", 2),
            ("hybrid+uncore:scope=die:gp=2+uncore:scope=package", 4),
            ("uncore", 1),
            ("core+uncore:name=power+uncore:name=amd_umc_0:scope=die", 1),
        ] {
            let spec: Spec = text.parse().unwrap();
            assert_eq!((spec.text(), spec.least_cpus()), (text, cpus));
        }
    }

    #[test]
    fn a_bad_spec_is_told() {
        for (text, part) in [
            ("", "core, hybrid"),
            ("cores", "`cores`"),
            ("core:gp=0", "gp=1 to"),
            ("core:gp=33", "gp=1 to"),
            ("core:cpus=2", "`cpus=2`"),
            ("core:cache=no", "`cache=no`"),
            ("hybrid:cache=off", "`cache=off`"),
            ("hybrid:cpus=0", "cpus=1 to"),
            ("core:scope=die", "`scope=die`"),
            ("uncore:scope=ship", "package"),
            ("uncore:name=amd_l2", "amd_l3"),
            ("uncore:name=amd_umc_x", "amd_umc_N"),
            ("core:name=power", "`name=power`"),
            ("core+hybrid", "core+hybrid"),
            ("core+core", "the most"),
        ] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
