//! A kernel and an initramfs of any bytes: refused or loaded, never a panic,
//! and what is loaded lies where the kernel was said to lie.
//! `cargo +nightly fuzz run boot -s none` in `vmm`.
#![no_main]

mod files;

use std::cell::RefCell;

use files::Scratch;
use libfuzzer_sys::fuzz_target;
use vmm::config::MemoryConfig;
use vmm::machine::boot::{BootInputs, Initramfs, KernelImage, RamdiskForm, load};
use vmm::machine::memory::RamLayout;

const RAM: u64 = 16 << 20;

thread_local! {
    static FILES: RefCell<(Scratch, Scratch)> =
        RefCell::new((Scratch::new("kernel"), Scratch::new("initramfs")));
}

fuzz_target!(|data: &[u8]| {
    // Two bytes say where the kernel ends and the initramfs begins.
    let Some((cut, bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_le_bytes(*cut)).min(bytes.len());
    let (kernel, archive) = bytes.split_at(cut);
    FILES.with_borrow_mut(|(kernel_file, archive_file)| {
        let archive_path = archive_file.holding(archive).to_owned();
        let mut image = KernelImage::open(kernel_file.holding(kernel));
        let form = image
            .as_ref()
            .map_or(RamdiskForm::Archives, KernelImage::ramdisk_form);
        let mut archives = Initramfs::open(&[archive_path], form).and_then(|mut archives| {
            archives.inspect()?;
            Ok(archives)
        });
        match &archives {
            Ok(archives) => assert!(archives.size() >= archive.len() as u64),
            Err(error) => assert!(error.to_string().starts_with("--initramfs: ")),
        }
        match &mut image {
            Ok(image) => start(
                image,
                archives.as_mut().unwrap_or(&mut Initramfs::default()),
            ),
            Err(error) => assert!(error.to_string().starts_with("--kernel: ")),
        }
    });
});

fn start(kernel: &mut KernelImage, initramfs: &mut Initramfs) {
    let place = RamLayout::of(RAM);
    let lazily = MemoryConfig {
        size: RAM,
        hugepages: false,
        prefault: false,
    };
    let memory = place.allocate(lazily, false);
    let memory = memory.expect("the host has memory");
    let (start, end) = kernel.span();
    let loaded = load(
        &memory,
        BootInputs {
            kernel,
            initramfs,
            cmdline: "console=ttyS0",
            map: &place.map(),
            low_ram: place.low,
        },
    );
    match loaded {
        Ok(_) => assert!(
            start >= 1 << 20 && end <= RAM,
            "{start:#x} to {end:#x} was loaded"
        ),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
