//! The bytes of an entry.
//!
//! All numbers are little-endian. The parts follow each other without gaps:
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | `mixstore` |
//! | 8 | 4 | version of the format, 1 |
//! | 12 | 4 | *h*, bytes of the header, at most 1 MiB |
//! | 16 | 32 | the key |
//! | 48 | 32 | BLAKE3 of bytes 0 to 48, the header and the digests |
//! | 80 | *h* | the header |
//! | 80 + *h* | 32 · *n* | the digests: BLAKE3 of each chunk of data |
//! | 80 + *h* + 32 · *n* | | the data: the arrays in the header's order, elements in row-major order |
//!
//! A chunk is 1 MiB of one array, or what is left of it at its end; *n* counts those of all arrays.
//! The file ends where the last array does.
//!
//! The header:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | when the entry was made, in seconds since 1970 |
//! | 4 + … | the title: its length in bytes, then UTF-8 |
//! | 4 + … | the metadata, likewise |
//! | 4 | count of arrays |
//! | | for each array: |
//! | 4 + … | its name: length, then UTF-8 |
//! | 1 | its type: 0 for f32, 1 for f64 |
//! | 1 | count of dimensions |
//! | 8 · … | the dimensions, outermost first |
//!
//! Nowhere is an offset stored, so that no two arrays can claim the same bytes: places follow from
//! sizes, and the sizes together must give the length of the file. A reader checks that before it
//! allocates anything, then the digest of the header, then each chunk as it reads it.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mixdown_tensor::{DType, Shape};

use crate::error::Fault;
use crate::key::Key;

/// Version of the format. It is in the name of the folder too.
pub const VERSION: u32 = 1;
/// First bytes of an entry.
pub const MAGIC: &[u8; 8] = b"mixstore";
/// Bytes of an array that have one digest. Large enough that digests are small beside the data, small
/// enough that a piece of an array can be read and proven without reading much more.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Largest header. Names and shapes of a thousand arrays take a tenth of it.
pub const HEADER_BYTES_MOST: u32 = 1 << 20;
/// Bytes before the header.
pub(crate) const PREAMBLE_BYTES: usize = 80;
/// Bytes of the preamble that the digest after them covers.
const COVERED_BYTES: usize = 48;

/// What an entry says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What the entry is, for people: an op and the tensor it is for.
    pub title: String,
    /// What else the caller wants to find again, as JSON. The store does not look inside.
    pub metadata: String,
    /// The arrays, in the order of their data.
    pub arrays: Vec<ArrayHeader>,
}

/// Name, type and shape of one array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayHeader {
    /// Unlike that of any other array of the entry.
    pub name: String,
    /// f32 or f64.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
}

impl ArrayHeader {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.shape.bytes(self.dtype)
    }
}

/// What is known of an entry without reading its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// What it is found by.
    pub key: Key,
    /// What it says about itself.
    pub header: Header,
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last read, or made.
    pub last_used: SystemTime,
}

/// An entry with all its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What the entry is, for people.
    pub title: String,
    /// What the caller keeps beside the arrays, as JSON.
    pub metadata: String,
    /// The arrays, in their order.
    pub arrays: Vec<Array>,
}

/// One array with its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Unlike that of any other array of the entry.
    pub name: String,
    /// Its dimensions.
    pub shape: Shape,
    /// Its elements, in row-major order.
    pub data: Data,
}

/// Elements of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Elements of type f32.
    F32(Vec<f32>),
    /// Elements of type f64.
    F64(Vec<f64>),
}

impl Data {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
        }
    }

    /// Count of elements.
    pub fn elements(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }
}

impl Entry {
    /// The array of this name.
    pub fn array(&self, name: &str) -> Option<&Array> {
        self.arrays.iter().find(|array| array.name == name)
    }

    /// What it says about itself.
    pub fn header(&self) -> Header {
        let array = |array: &Array| ArrayHeader {
            name: array.name.clone(),
            dtype: array.data.dtype(),
            shape: array.shape.clone(),
        };
        Header {
            title: self.title.clone(),
            metadata: self.metadata.clone(),
            arrays: self.arrays.iter().map(array).collect(),
        }
    }
}

/// Why something cannot be a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// It ends inside a number or a text.
    #[error("it ends too early")]
    EndsEarly,
    /// Something follows the last array.
    #[error("it goes on after its last array")]
    GoesOn,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText,
    /// A number stands for no type, or the type cannot be stored.
    #[error("an array has neither f32 nor f64 elements")]
    UnknownType,
    /// The arrays together do not fit into 64 bits.
    #[error("its arrays are larger than can be counted")]
    TooMuchData,
    /// It is larger than [`HEADER_BYTES_MOST`].
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// Two arrays have one name.
    #[error("two of its arrays have the same name")]
    SameName,
}

/// Where everything is in the file of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// For each array, the byte of the file where it begins, and the number of its first chunk.
    arrays: Vec<(u64, u64)>,
    sizes: Vec<u64>,
    /// Chunks of all arrays.
    pub chunks: u64,
    /// Bytes before the data.
    pub prefix_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl Layout {
    /// The layout of an entry whose header has this many bytes.
    pub fn new(header: &Header, header_bytes: u64) -> Result<Self, HeaderFault> {
        let sizes: Vec<u64> = header.arrays.iter().map(ArrayHeader::bytes).collect();
        let chunks = sizes.iter().try_fold(0_u64, |sum, bytes| {
            sum.checked_add(bytes.div_ceil(CHUNK_BYTES)).ok_or(HeaderFault::TooMuchData)
        })?;
        let prefix_bytes = chunks
            .checked_mul(32)
            .and_then(|digests| digests.checked_add(header_bytes + PREAMBLE_BYTES as u64))
            .ok_or(HeaderFault::TooMuchData)?;
        let mut arrays = Vec::with_capacity(sizes.len());
        let (mut at, mut chunk) = (prefix_bytes, 0);
        for bytes in &sizes {
            arrays.push((at, chunk));
            at = at.checked_add(*bytes).ok_or(HeaderFault::TooMuchData)?;
            chunk += bytes.div_ceil(CHUNK_BYTES);
        }
        Ok(Self { arrays, sizes, chunks, prefix_bytes, file_bytes: at })
    }

    /// Bytes of an array.
    pub fn array_bytes(&self, array: usize) -> u64 {
        self.sizes[array]
    }

    /// Byte of the file where an array begins.
    pub fn array_at(&self, array: usize) -> u64 {
        self.arrays[array].0
    }

    /// Count of an array's chunks.
    pub fn array_chunks(&self, array: usize) -> u64 {
        self.sizes[array].div_ceil(CHUNK_BYTES)
    }

    /// The number of an array's chunk among all chunks.
    pub fn number(&self, array: usize, chunk: u64) -> usize {
        // Chunks are counted by a file that exists or is about to; it fits an address space.
        (self.arrays[array].1 + chunk) as usize
    }

    /// Bytes of an array that a chunk of it covers.
    pub fn chunk_range(&self, array: usize, chunk: u64) -> Range<u64> {
        let begin = chunk * CHUNK_BYTES;
        begin..(begin + CHUNK_BYTES).min(self.sizes[array])
    }
}

/// The header's bytes.
pub(crate) fn encode(header: &Header, created: SystemTime) -> Result<Vec<u8>, HeaderFault> {
    let mut bytes = Vec::new();
    let seconds = created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    bytes.extend(seconds.to_le_bytes());
    put_text(&mut bytes, &header.title)?;
    put_text(&mut bytes, &header.metadata)?;
    let count = u32::try_from(header.arrays.len()).map_err(|_| HeaderFault::TooLarge)?;
    bytes.extend(count.to_le_bytes());
    for array in &header.arrays {
        put_text(&mut bytes, &array.name)?;
        bytes.push(match array.dtype {
            DType::F32 => 0,
            DType::F64 => 1,
            _ => return Err(HeaderFault::UnknownType),
        });
        let dimensions = array.shape.dimensions();
        bytes.push(u8::try_from(dimensions.len()).map_err(|_| HeaderFault::TooLarge)?);
        bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
    }
    if bytes.len() > HEADER_BYTES_MOST as usize {
        return Err(HeaderFault::TooLarge);
    }
    check_names(header)?;
    Ok(bytes)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) -> Result<(), HeaderFault> {
    let length = u32::try_from(text.len()).map_err(|_| HeaderFault::TooLarge)?;
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.as_bytes());
    Ok(())
}

fn check_names(header: &Header) -> Result<(), HeaderFault> {
    let mut names: Vec<&str> = header.arrays.iter().map(|array| array.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(HeaderFault::SameName),
        false => Ok(()),
    }
}

/// Reads a header, and when it was made. Allocates no more than a few times its bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Header, SystemTime), HeaderFault> {
    let mut rest = Rest(bytes);
    let created = rest.number_of_8()?;
    let title = rest.text()?;
    let metadata = rest.text()?;
    let count = rest.number_of_4()?;
    let mut arrays = Vec::new();
    for _ in 0..count {
        let name = rest.text()?;
        let [dtype, rank] = rest.take()?;
        let dtype = match dtype {
            0 => DType::F32,
            1 => DType::F64,
            _ => return Err(HeaderFault::UnknownType),
        };
        let dimensions = (0..rank).map(|_| rest.number_of_8()).collect::<Result<_, _>>()?;
        let shape = Shape::new(dimensions).map_err(|_| HeaderFault::TooMuchData)?;
        arrays.push(ArrayHeader { name, dtype, shape });
    }
    if !rest.0.is_empty() {
        return Err(HeaderFault::GoesOn);
    }
    let header = Header { title, metadata, arrays };
    check_names(&header)?;
    // A time past all calendars is as good as none.
    let created = UNIX_EPOCH.checked_add(Duration::from_secs(created)).unwrap_or(UNIX_EPOCH);
    Ok((header, created))
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderFault> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(HeaderFault::EndsEarly)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number_of_4(&mut self) -> Result<u32, HeaderFault> {
        self.take().map(u32::from_le_bytes)
    }

    fn number_of_8(&mut self) -> Result<u64, HeaderFault> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, HeaderFault> {
        let length = self.number_of_4()? as usize;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HeaderFault::EndsEarly)?;
        self.0 = rest;
        String::from_utf8(taken.to_vec()).map_err(|_| HeaderFault::NotText)
    }
}

/// The first bytes of an entry, as read and not yet proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preamble([u8; PREAMBLE_BYTES]);

impl Preamble {
    /// Checks what the first bytes say about themselves.
    pub fn read(bytes: [u8; PREAMBLE_BYTES], key: &Key) -> Result<Self, Fault> {
        let preamble = Self(bytes);
        if preamble.part::<8>(0) != *MAGIC {
            return Err(Fault::NotAnEntry);
        }
        match u32::from_le_bytes(preamble.part(8)) {
            VERSION => {}
            other => return Err(Fault::OtherVersion(other)),
        }
        if preamble.header_bytes() > HEADER_BYTES_MOST {
            return Err(HeaderFault::TooLarge.into());
        }
        match Key::from_bytes(preamble.part(16)) {
            found if found == *key => Ok(preamble),
            found => Err(Fault::OtherKey(found)),
        }
    }

    /// Bytes of the header.
    pub fn header_bytes(&self) -> u32 {
        u32::from_le_bytes(self.part(12))
    }

    /// Checks the digest, with the bytes of the header and of the chunks' digests.
    pub fn prove(&self, rest: &[u8]) -> Result<(), Fault> {
        match digest(&self.0[..COVERED_BYTES], rest).as_bytes() == &self.part(COVERED_BYTES) {
            true => Ok(()),
            false => Err(Fault::HeaderDigest),
        }
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("parts lie inside the preamble")
    }
}

/// All that comes before the data.
pub(crate) fn prefix(key: &Key, header: &[u8], digests: &[[u8; 32]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREAMBLE_BYTES + header.len() + 32 * digests.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(key.as_bytes());
    bytes.extend([0; 32]);
    bytes.extend(header);
    bytes.extend(digests.iter().flatten());
    let digest = digest(&bytes[..COVERED_BYTES], &bytes[PREAMBLE_BYTES..]);
    bytes[COVERED_BYTES..PREAMBLE_BYTES].copy_from_slice(digest.as_bytes());
    bytes
}

fn digest(preamble: &[u8], rest: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(preamble).update(rest).finalize()
}
