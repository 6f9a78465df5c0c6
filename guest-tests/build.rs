//! Links the payloads, and only them, as static ELF images at a fixed address.

/// The bare-metal payloads of `Cargo.toml`.
const PAYLOADS: [&str; 30] = [
    "exit_cost",
    "hello",
    "pci_random",
    "pmi_freeze",
    "pmi_habits",
    "pmi_halt",
    "pmi_in_nmi",
    "pmi_lvtpc",
    "pmi_once",
    "pmu_absent",
    "pmu_amd",
    "pmu_cpuid",
    "pmu_count",
    "pmu_none",
    "pmu_overflow",
    "pmu_random",
    "pmu_registers",
    "pmu_v1",
    "rdpmc_doorbell",
    "rdpmc_island",
    "rdpmc_shapes",
    "rdpmc_index",
    "rdpmc_lost",
    "rdpmc_protected",
    "rdpmc_rewrite",
    "rdpmc_user",
    "register_calls",
    "register_cost",
    "reset",
    "triple_fault",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=payload.ld");
    if std::env::var_os("CARGO_FEATURE_PAYLOADS").is_none() {
        return;
    }
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    let script = format!("-Wl,-T,{directory}/payload.ld");
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--gc-sections",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=4096",
        &script,
    ];
    for payload in PAYLOADS {
        for argument in arguments {
            println!("cargo:rustc-link-arg-bin={payload}={argument}");
        }
    }
}
