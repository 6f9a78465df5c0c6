//! The CPUID leaves that make an Intel guest hybrid (rules of guest-contract.md, section
//! 2.1; Intel SDM vol. 2A, "CPUID", leaves 07H and 1AH).

use vpmu::guest::CoreType;

use super::table::Table;

/// Family 6, model 0x97, stepping 2: the one hybrid model that Linux 6.1 and
/// 6.12 treat alike.
const SIGNATURE: u32 = 0x0009_0672;
/// Leaf 07H:EDX: the processor is hybrid.
const HYBRID: u32 = 1 << 15;
/// Leaf 1AH ("Native Model ID"): the core type is in `EAX[31:24]`.
const NATIVE_MODEL: u32 = 0x1a;
const CORE: u32 = 0x40 << 24;
const ATOM: u32 = 0x20 << 24;

pub(super) fn apply(table: &mut Table, core_type: CoreType) {
    table.get(0x1, 0).eax = SIGNATURE;
    table.get(0x7, 0).edx |= HYBRID;
    let native_model = match core_type {
        CoreType::Core => CORE,
        CoreType::Atom => ATOM,
    };
    table.set_plain(NATIVE_MODEL, [native_model, 0, 0, 0]);
    table.raise_max_leaf(NATIVE_MODEL);
}
