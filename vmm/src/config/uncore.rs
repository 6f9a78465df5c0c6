//! `--uncore`.

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--uncore",
    keys: &["power", "amd_l3", "amd_df", "amd_umc", "share"],
    accepted: "power=on|off, amd_l3=on|off, amd_df=on|off, amd_umc=on|off[,share=cputime|raw]",
};

/// How much of the host's energy the guest is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Its part by the CPU time of its vCPUs.
    #[default]
    CpuTime,
    /// All of it.
    Raw,
}

/// The uncore PMUs that the guest is to have, as asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a switch for each key of the flag"
)]
pub struct UncoreArg {
    /// `power`.
    pub power: bool,
    /// `amd_l3`.
    pub amd_l3: bool,
    /// `amd_df`.
    pub amd_df: bool,
    /// `amd_umc_0` and the like.
    pub amd_umc: bool,
    /// Of energy.
    pub share: Share,
}

impl UncoreArg {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
        let switch = |key| match options.get(key) {
            None | Some("off") => Ok(false),
            Some("on") => Ok(true),
            Some(other) => Err(options.bad(key, other, "on or off")),
        };
        Ok(Self {
            power: switch("power")?,
            amd_l3: switch("amd_l3")?,
            amd_df: switch("amd_df")?,
            amd_umc: switch("amd_umc")?,
            share: match options.get("share") {
                None | Some("cputime") => Share::CpuTime,
                Some("raw") => Share::Raw,
                Some(other) => return Err(options.bad("share", other, "cputime or raw")),
            },
        })
    }

    /// Whether it asks for no PMU.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !(self.power || self.amd_l3 || self.amd_df || self.amd_umc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_on_by_default() {
        assert!(UncoreArg::default().is_empty());
        let raw = UncoreArg::parse("share=raw,amd_l3=off").unwrap();
        assert!(raw.is_empty());
        assert_eq!(raw.share, Share::Raw);
        let all = UncoreArg::parse("power=on,amd_l3=on,amd_df=on,amd_umc=on").unwrap();
        assert!(all.power && all.amd_l3 && all.amd_df && all.amd_umc);
        assert_eq!(all.share, Share::CpuTime);
    }

    #[test]
    fn bad_values() {
        for (text, part) in [
            ("on", "'on' is not key=value"),
            ("", "power=on|off"),
            (
                "power=yes",
                "'yes' is not possible for 'power'; expected: on or off",
            ),
            ("share=half", "cputime or raw"),
            ("amd_l2=on", "unknown key 'amd_l2'"),
            ("power=on,power=off", "twice"),
        ] {
            let message = UncoreArg::parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--uncore"), "{message}");
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
