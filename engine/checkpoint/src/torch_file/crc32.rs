//! The checksum of zip archives: CRC-32 with the reflected polynomial 0xEDB88320.

/// Bytes that are taken at once, each by a table of its own.
const STEP: usize = 16;

static TABLES: [[u32; 256]; STEP] = tables();

/// A running checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32(u32);

impl Crc32 {
    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> u32 {
        let mut sum = Self::default();
        sum.add(bytes);
        sum.value()
    }

    /// Takes more bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut state = !self.0;
        let (steps, rest) = bytes.as_chunks::<STEP>();
        for step in steps {
            // The state is as wide as the first four bytes, which it meets; the others come as they are.
            let mut mixed = *step;
            for (byte, of_state) in mixed.iter_mut().zip(state.to_le_bytes()) {
                *byte ^= of_state;
            }
            state = 0;
            for (at, byte) in mixed.iter().enumerate() {
                state ^= TABLES[STEP - 1 - at][usize::from(*byte)];
            }
        }
        for byte in rest {
            state = state >> 8 ^ TABLES[0][usize::from(state as u8 ^ byte)];
        }
        self.0 = !state;
    }

    /// The checksum of what was taken in.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// Table `n` moves a byte past `n` bytes more.
const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0_u32; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 255) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, a bit at a time.
    fn plainly(bytes: &[u8]) -> u32 {
        let mut state = !0_u32;
        for byte in bytes {
            state ^= u32::from(*byte);
            for _ in 0..8 {
                state = if state & 1 == 1 { state >> 1 ^ 0xEDB8_8320 } else { state >> 1 };
            }
        }
        !state
    }

    #[test]
    fn sums_agree_with_the_definition_at_every_length() {
        // The check value of the standard.
        assert_eq!(Crc32::of(b"123456789"), 0xCBF4_3926);
        assert_eq!(Crc32::of(b""), 0);
        let bytes: Vec<u8> = (0..200_u32).map(|at| (at * at + 7 * at) as u8).collect();
        for length in 0..bytes.len() {
            let expected = plainly(&bytes[..length]);
            assert_eq!(Crc32::of(&bytes[..length]), expected, "{length}");
            let mut parts = Crc32::default();
            let (one, other) = bytes[..length].split_at(length / 3);
            parts.add(one);
            parts.add(other);
            assert_eq!(parts.value(), expected, "{length} in two parts");
        }
    }
}
