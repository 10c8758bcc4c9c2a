//! What an entry is found by.

use std::fmt;
use std::str::FromStr;

/// BLAKE3 of everything that a result depends on; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is written as 64 lower-case hexadecimal digits")]
pub struct NotAKey;

impl Key {
    /// The key of these bytes, which say what the result depends on.
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }

    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for Key {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NotAKey);
        }
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| NotAKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3 of nothing, from the test vectors of its authors.
    const NOTHING: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn keys_are_blake3_and_read_back() {
        assert_eq!(Key::of(b"").to_string(), NOTHING);
        assert_eq!(NOTHING.parse(), Ok(Key::of(b"")));
        for other in ["", "af", &NOTHING.to_uppercase(), &NOTHING[1..], &format!("{NOTHING}0")] {
            assert_eq!(other.parse::<Key>(), Err(NotAKey), "{other}");
        }
    }
}
