//! From the flags of `perfvisor run`, which are text, to a checked [`VmConfig`].

use super::RunArgs;
use crate::config::{
    self, ConfigError, ConsoleConfig, CpusConfig, DiskArg, FsConfig, MemoryConfig, NetConfig,
    PmuArg, SerialConfig, UncoreArg, VmConfig, VsockConfig, api_socket,
};

impl RunArgs {
    /// Checks the flags, each by itself and then those that go together.
    ///
    /// # Errors
    /// The first flag whose value is not possible.
    pub fn vm_config(&self) -> Result<VmConfig, ConfigError> {
        config::check_cmdline(&self.cmdline)?;
        let (cpus, pmu) = (CpusConfig::parse(&self.cpus)?, PmuArg::parse(&self.pmu)?);
        config::types_go_with_hybrid(&cpus, &pmu)?;
        config::nested_goes_without_a_pmu(&cpus, &pmu)?;
        let uncore = match &self.uncore {
            Some(text) => UncoreArg::parse(text)?,
            None => UncoreArg::default(),
        };
        config::uncore_goes_with_a_pmu(uncore, &pmu)?;
        let fs = all(&self.fs, FsConfig::parse)?;
        config::tags_differ(&fs)?;
        let serial = SerialConfig::parse(&self.serial)?;
        let console = self.console.as_deref().map(ConsoleConfig::parse);
        let console = console.transpose()?;
        config::one_terminal(&serial, console.as_ref())?;
        Ok(VmConfig {
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            cmdline: self.cmdline.clone(),
            cpus,
            memory: MemoryConfig::parse(&self.memory)?,
            pmu,
            uncore,
            fs,
            net: all(&self.net, NetConfig::parse)?,
            vsock: self.vsock.as_deref().map(VsockConfig::parse).transpose()?,
            serial,
            disks: all(&self.disk, DiskArg::parse)?,
            console,
            rng: config::rng::parse(&self.rng)?,
            api_socket: self
                .api_socket
                .as_deref()
                .map(api_socket::parse)
                .transpose()?,
            debug_exit: self.debug_exit,
            kvm_device: self.kvm_device.clone(),
        })
    }
}

/// The values of a flag that may be repeated.
fn all<T>(
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    texts.iter().map(|text| parse(text)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    /// Whoever maps the memory needs a file; a guest without such a device boots sooner
    /// without one.
    #[test]
    fn memory_is_shared_with_processes_alone() {
        let shares = |flags: &[&str]| {
            let words = ["perfvisor", "run", "--kernel", "k"];
            let cli = Cli::try_parse_from(words.iter().chain(flags)).unwrap();
            let Command::Run(args) = cli.command else {
                panic!("{flags:?}")
            };
            args.vm_config().unwrap().shares_memory()
        };
        for flags in [
            &["--fs", "tag=t,path=/"][..],
            &["--fs", "tag=t,socket=/s"],
            &["--net", "user"],
            &["--net", "vhost-user=on,socket=/s"],
            &["--net", "tap=t", "--disk", "vhost-user=on,socket=/s"],
        ] {
            assert!(shares(flags), "{flags:?}");
        }
        for flags in [
            &[][..],
            &["--net", "tap=t"],
            &["--vsock", "cid=3"],
            &["--disk", "path=/d", "--rng", "on", "--console", "null"],
        ] {
            assert!(!shares(flags), "{flags:?}");
        }
    }
}
