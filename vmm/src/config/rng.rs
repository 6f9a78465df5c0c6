//! `--rng`.

use super::ConfigError;

/// Whether the guest has a source of random bytes.
pub(crate) fn parse(text: &str) -> Result<bool, ConfigError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ConfigError::BadSwitch {
            flag: "--rng",
            value: text.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!((parse("on"), parse("off")), (Ok(true), Ok(false)));
        let message = parse("src=/dev/urandom").unwrap_err().to_string();
        assert_eq!(
            message,
            "--rng: 'src=/dev/urandom' is not possible; expected: on or off"
        );
    }
}
