//! CRC-32 as Ethernet, gzip and PNG have it (RFC 1952, section 8).

const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < table.len() {
        #[expect(clippy::cast_possible_truncation, reason = "below 16")]
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The checksum of the parts, one after the other.
pub(crate) fn of(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(!0, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        [4, 4].into_iter().fold(crc, |crc: u32, bits| {
            crc >> bits ^ TABLE[(crc & 0xf) as usize]
        })
    })
}

#[cfg(test)]
mod tests {
    /// The check value of the catalogues.
    #[test]
    fn the_check_value() {
        assert_eq!(super::of(&[b"1234", b"", b"56789"]), 0xcbf4_3926);
        assert_eq!(super::of(&[]), 0);
    }
}
