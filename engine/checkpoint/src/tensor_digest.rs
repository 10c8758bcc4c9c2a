//! Digests of tensors, put together from pieces that were hashed in any order on any thread.
//! The result is the plain BLAKE3 of the tensor's bytes, so anyone can check it with `b3sum`.

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{self, HasherExt, Mode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// BLAKE3 of a tensor's bytes, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct TensorDigest([u8; 32]);

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest of 64 lower-case hexadecimal digits")]
pub struct BadDigest(String);

impl TensorDigest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for TensorDigest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for TensorDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for TensorDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorDigest({self})")
    }
}

impl FromStr for TensorDigest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(text.to_owned());
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(bad());
        }
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| bad())
    }
}

impl TryFrom<String> for TensorDigest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<TensorDigest> for String {
    fn from(digest: TensorDigest) -> Self {
        digest.to_string()
    }
}

/// How a tensor is cut into pieces: all of `piece_bytes`, the last one as long as what remains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    total_bytes: u64,
    piece_bytes: u64,
}

impl Pieces {
    /// A tensor of `total_bytes` in pieces of `piece_bytes`.
    ///
    /// **Panics.** When `piece_bytes` is not a power of two of at least 1024: only such pieces are
    /// whole subtrees of the hash.
    pub fn new(total_bytes: u64, piece_bytes: u64) -> Self {
        assert!(
            piece_bytes.is_power_of_two() && piece_bytes >= blake3::CHUNK_LEN as u64,
            "a piece of {piece_bytes} bytes is no subtree of the hash"
        );
        Self { total_bytes, piece_bytes }
    }

    /// Count of pieces; a tensor without bytes has one empty piece.
    pub fn count(&self) -> usize {
        self.total_bytes.div_ceil(self.piece_bytes).max(1) as usize
    }

    /// Length of a piece in bytes.
    pub fn len(&self, piece_index: usize) -> u64 {
        self.total_bytes.saturating_sub(self.offset(piece_index)).min(self.piece_bytes)
    }

    /// Whether the tensor has no bytes.
    pub fn is_empty(&self) -> bool {
        self.total_bytes == 0
    }

    /// First byte of a piece within the tensor.
    pub fn offset(&self, piece_index: usize) -> u64 {
        piece_index as u64 * self.piece_bytes
    }

    /// Starts the hash of a piece.
    pub fn hasher(&self, piece_index: usize) -> PieceHasher {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(self.offset(piece_index));
        PieceHasher { hasher, whole: self.count() == 1, piece_index, left: self.len(piece_index) }
    }
}

/// Hashes one piece, whose bytes come in order, in stretches of any length.
#[derive(Debug)]
pub struct PieceHasher {
    hasher: blake3::Hasher,
    whole: bool,
    piece_index: usize,
    left: u64,
}

impl PieceHasher {
    /// Adds the next bytes of the piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.left =
            self.left.checked_sub(bytes.len() as u64).expect("a piece got more bytes than it has");
        self.hasher.update(bytes);
    }

    /// The hash of the piece, whose bytes have all been added.
    pub fn finish(self) -> PieceHash {
        assert_eq!(self.left, 0, "a piece was finished before its last byte");
        let value = match self.whole {
            true => *self.hasher.finalize().as_bytes(),
            false => self.hasher.finalize_non_root(),
        };
        PieceHash { piece_index: self.piece_index, value }
    }
}

/// What one piece contributes to the digest of its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceHash {
    piece_index: usize,
    value: [u8; 32],
}

/// Collects the pieces of one tensor, in any order.
#[derive(Debug)]
pub struct TensorHasher {
    pieces: Pieces,
    values: Vec<Option<[u8; 32]>>,
    missing: usize,
}

impl TensorHasher {
    /// For a tensor cut like this.
    pub fn new(pieces: Pieces) -> Self {
        let count = pieces.count();
        Self { pieces, values: vec![None; count], missing: count }
    }

    /// Adds a piece; the same piece again replaces what was there.
    pub fn add(&mut self, piece: PieceHash) {
        let value = &mut self.values[piece.piece_index];
        self.missing -= usize::from(value.is_none());
        *value = Some(piece.value);
    }

    /// Whether every piece has been added.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// The digest of the tensor, whose pieces have all been added.
    pub fn finish(&self) -> TensorDigest {
        let values: Vec<[u8; 32]> = self
            .values
            .iter()
            .map(|value| value.expect("a tensor was finished before its last piece"))
            .collect();
        if let [only] = values[..] {
            return TensorDigest(only);
        }
        let (left, right) = self.split(&values);
        hazmat::merge_subtrees_root(&self.merge(left), &self.merge(right), Mode::Hash).into()
    }

    fn merge(&self, values: &[[u8; 32]]) -> [u8; 32] {
        if let [only] = *values {
            return only;
        }
        let (left, right) = self.split(values);
        hazmat::merge_subtrees_non_root(&self.merge(left), &self.merge(right), Mode::Hash)
    }

    /// The left subtree is the largest power of two that leaves something for the right one. In
    /// pieces that holds as it does in the hash's own chunks, because pieces are powers of two.
    fn split<'a>(&self, values: &'a [[u8; 32]]) -> (&'a [[u8; 32]], &'a [[u8; 32]]) {
        debug_assert!(values.len() as u64 <= self.pieces.count() as u64);
        values.split_at(values.len().next_power_of_two() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
    }

    /// Pieces in a scrambled order, each in two stretches, must give the hash of the whole.
    fn check(data: &[u8], piece_bytes: u64) {
        let total = data.len();
        let pieces = Pieces::new(total as u64, piece_bytes);
        let mut tensor = TensorHasher::new(pieces);
        let mut order: Vec<usize> = (0..pieces.count()).collect();
        order.sort_by_key(|&index| (index * 7919) % 101);
        for index in order {
            assert!(!tensor.is_complete());
            let start = pieces.offset(index) as usize;
            let piece = &data[start..start + pieces.len(index) as usize];
            let mut hasher = pieces.hasher(index);
            hasher.update(&piece[..piece.len() / 3]);
            hasher.update(&piece[piece.len() / 3..]);
            tensor.add(hasher.finish());
        }
        assert!(tensor.is_complete());
        assert_eq!(tensor.finish(), TensorDigest::of(data), "{total} bytes by {piece_bytes}");
    }

    #[test]
    fn pieces_give_the_hash_of_the_whole() {
        let data = bytes(2_200_000);
        for piece_bytes in [1024, 2048, 4096, 65536, 131_072] {
            for pieces in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33] {
                for extra in [-1025_i64, -1024, -1, 0, 1, 63, 64, 65, 1023, 1024, 1025] {
                    let total = pieces * piece_bytes as i64 + extra;
                    if let Some(data) = usize::try_from(total).ok().and_then(|end| data.get(..end))
                    {
                        check(data, piece_bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn a_digest_is_read_back() {
        let digest = TensorDigest::of(b"weights");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<TensorDigest>(&json).unwrap(), digest);
        for bad in ["", "00", &digest.to_string().to_uppercase(), &"z".repeat(64)] {
            assert!(bad.parse::<TensorDigest>().is_err(), "{bad}");
        }
    }
}
