//! `perfvisor ctl monitor add`.

use super::ConfigError;
use super::options::{Flag, Options};
use crate::pmu::monitors::{self, MonitorPolicy};

const FLAG: Flag = Flag {
    name: "monitor add",
    keys: &["policy", "vcpu"],
    accepted: "EVENT[,policy=flexible|pinned][,vcpu=N], such as cycles:u,policy=pinned",
};

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
        let (event, rest) = match text.split_once(',') {
            Some((event, rest)) => (event, Some(rest)),
            None => (text, None),
        };
        if monitors::event(event).is_none() {
            return Err(ConfigError::BadEvent {
                flag: FLAG.name,
                event: event.to_owned(),
                accepted: monitors::accepted(),
            });
        }
        let mut arg = Self {
            event: event.to_owned(),
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
