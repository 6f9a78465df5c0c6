//! `perfvisor ctl monitor add`.

use serde::{Deserialize, Serialize};
use vpmu::Policy;

use super::options::{Flag, Options};
use super::{ConfigError, event};

const FLAG: Flag = Flag {
    name: "monitor add",
    keys: &["policy", "vcpu"],
    accepted: "EVENT[,policy=flexible|pinned][,vcpu=N], such as cycles:u,policy=pinned",
};

/// How a monitor competes for host counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorPolicy {
    /// It takes turns, and comes before the guest's flexible counters.
    #[default]
    Flexible,
    /// It has a host counter, before all others, or is in error.
    Pinned,
}

impl From<Policy> for MonitorPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Flexible => Self::Flexible,
            Policy::Pinned => Self::Pinned,
        }
    }
}

impl From<MonitorPolicy> for Policy {
    fn from(policy: MonitorPolicy) -> Self {
        match policy {
            MonitorPolicy::Flexible => Self::Flexible,
            MonitorPolicy::Pinned => Self::Pinned,
        }
    }
}

/// What to attach to which vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorArg {
    /// The event, as it was written.
    pub event: String,
    /// How it competes for host counters.
    pub policy: MonitorPolicy,
    /// The only vCPU.
    pub vcpu: Option<u16>,
}

impl std::str::FromStr for MonitorArg {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (word, rest) = match text.split_once(',') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        if event::with_levels(word).is_none() {
            return Err(ConfigError::BadEvent {
                flag: FLAG.name,
                event: word.to_owned(),
                accepted: event::accepted(),
            });
        }
        let mut arg = Self {
            event: word.to_owned(),
            policy: MonitorPolicy::Flexible,
            vcpu: None,
        };
        if let Some(rest) = rest {
            let options = Options::parse(FLAG, rest)?;
            arg.policy = match options.get("policy") {
                None | Some("flexible") => MonitorPolicy::Flexible,
                Some("pinned") => MonitorPolicy::Pinned,
                Some(other) => return Err(options.bad("policy", other, "flexible or pinned")),
            };
            let range = 0..=super::MAX_VCPUS - 1;
            arg.vcpu = options.number("vcpu", range, "a number below max= of --cpus")?;
        }
        Ok(arg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_may_have_a_policy_and_a_vcpu() {
        let arg: MonitorArg = "r1d1:k,vcpu=3,policy=pinned".parse().unwrap();
        assert_eq!((arg.event.as_str(), arg.vcpu), ("r1d1:k", Some(3)));
        assert_eq!(arg.policy, MonitorPolicy::Pinned);
        let arg: MonitorArg = "cycles".parse().unwrap();
        assert_eq!((arg.policy, arg.vcpu), (MonitorPolicy::Flexible, None));
    }

    #[test]
    fn a_mistake_names_itself_and_what_would_do() {
        for (text, parts) in [
            ("cycle", ["'cycle' is no event", "instructions"]),
            ("event=cycles", ["'event=cycles' is no event", "r1d1"]),
            ("cycles,pinned", ["'pinned' is not key=value", "policy="]),
            (
                "cycles,policy=hard",
                ["'hard' is not possible", "flexible or pinned"],
            ),
            ("cycles,vcpu=254", ["'254' is not possible", "--cpus"]),
            ("cycles,cpu=0", ["unknown key 'cpu'", "vcpu=N"]),
        ] {
            let error = text.parse::<MonitorArg>().unwrap_err().to_string();
            assert!(error.starts_with("monitor add: "), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
