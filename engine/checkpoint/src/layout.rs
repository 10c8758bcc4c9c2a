//! Where each byte of the output will lie: shards, their complete headers, and the offset of every tensor.
//! Computed before anything is written, so that tensors can be written in any order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::{DType, Shape};
use serde_json::{Map, Value, json};

use crate::gguf_file::GgufFile;
use crate::manifest::{FileRecord, sha256_hex};
use crate::torch_file::TorchFile;

/// Name of the index beside several shards.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// Headers above this length are refused by other readers of the format (safetensors crate, 0.8).
const MAX_HEADER_BYTES: usize = 100_000_000;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTensor {
    /// Full name.
    pub name: String,
    /// Storage type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// Position in [`Layout::shards`].
    pub shard: usize,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// One file of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// File name: `model.safetensors` or `model-00001-of-00003.safetensors`.
    pub name: String,
    /// The first bytes of the file: length, JSON, padding.
    pub header: Vec<u8>,
    /// Length of the whole file.
    pub file_bytes: u64,
    /// Its tensors in the order of their bytes, as positions in [`Layout::tensors`].
    pub tensors: Vec<usize>,
    /// What stands between and after the tensors, if it is a file of torch. `header` is then all before the
    /// first of them.
    pub torch: Option<TorchFile>,
}

/// All shards of an output.
///
/// Tensors keep the order they were given in, save that within a shard wider elements come first:
/// then every tensor is aligned to its elements although the data has no holes, which readers refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<OutputTensor>,
    places: Vec<TensorPlace>,
    shards: Vec<Shard>,
    total_bytes: u64,
}

impl Layout {
    /// Lays out these tensors in shards of at most `shard_bytes` of data; 0 puts all into one.
    ///
    /// A shard is closed before a tensor that would overflow it, so a tensor larger than the limit
    /// gets a shard of its own. Without tensors there is one shard that holds none.
    ///
    /// **Errors.** A name that occurs twice or that the format reserves; sizes beyond 64 bits; a
    /// header longer than other readers accept.
    pub fn new(tensors: Vec<OutputTensor>, shard_bytes: u64) -> Result<Self, Box<Diagnostic>> {
        Self::sharing(tensors, shard_bytes, &[])
    }

    /// Lays out these tensors in one file of this name.
    ///
    /// **Errors.** Those of [`new`](Self::new).
    pub fn in_one_file(tensors: Vec<OutputTensor>, name: &str) -> Result<Self, Box<Diagnostic>> {
        let mut layout = Self::new(tensors, 0)?;
        for shard in &mut layout.shards {
            name.clone_into(&mut shard.name);
        }
        Ok(layout)
    }

    /// Lays out these tensors in one file of this name, as `torch.save` writes a dictionary of them.
    ///
    /// **Errors.** Those of [`new`](Self::new), and of [`TorchFile::new`].
    pub fn in_torch_file(tensors: Vec<OutputTensor>, name: &str) -> Result<Self, Box<Diagnostic>> {
        let mut layout = Self::in_one_file(tensors, name)?;
        let file = TorchFile::new(&layout.tensors, name)?;
        for (number, place) in layout.places.iter_mut().enumerate() {
            place.offset = file.offset(number);
        }
        for shard in &mut layout.shards {
            shard.tensors = (0..layout.tensors.len()).collect();
            shard.header =
                file.parts(None).into_iter().next().map_or(Vec::new(), |(_, first)| first);
            shard.file_bytes = file.bytes();
            shard.torch = Some(file.clone());
        }
        Ok(layout)
    }

    /// Lays out these tensors in one GGUF file of this name, whose header has them in this order.
    ///
    /// **Errors.** Those of [`new`](Self::new).
    pub fn in_gguf_file(
        tensors: Vec<OutputTensor>,
        file: &GgufFile,
        name: &str,
    ) -> Result<Self, Box<Diagnostic>> {
        let mut layout = Self::in_one_file(tensors, name)?;
        for (number, place) in layout.places.iter_mut().enumerate() {
            place.offset = file.offset(number);
        }
        for shard in &mut layout.shards {
            shard.tensors = (0..layout.tensors.len()).collect();
            shard.header = file.header().to_vec();
            shard.file_bytes = file.bytes();
        }
        Ok(layout)
    }

    /// The headers of shards that say more than which tensors they hold.
    pub(crate) fn told_headers(&self) -> Vec<FileRecord> {
        let told = self.shards.iter().filter(|shard| shard.header.starts_with(b"GGUF"));
        let record = |shard: &Shard| FileRecord {
            name: shard.name.clone(),
            bytes: shard.header.len() as u64,
            sha256: sha256_hex(&shard.header),
        };
        told.map(record).collect()
    }

    /// Lays out these tensors like [`new`](Self::new), so that copies can share blocks with where
    /// they come from. `sources` says for each tensor that is a copy where it begins in its file.
    ///
    /// Blocks can be shared only at the same position within a block. So a header gets as many spaces
    /// more as puts most bytes of copies of its shard there. The layout then follows the inputs'
    /// layout, not only their tensors, but never what the disk can do.
    pub fn sharing(
        tensors: Vec<OutputTensor>,
        shard_bytes: u64,
        sources: &[Option<u64>],
    ) -> Result<Self, Box<Diagnostic>> {
        let groups = split(&tensors, shard_bytes);
        let count = groups.len();
        let files = (0..).zip(groups).map(|(position, group)| (shard_name(position, count), group));
        Self::in_files(tensors, files.collect(), sources, shard_bytes)
    }

    /// Lays out these tensors in files of these names, each with the tensors at these positions, which
    /// are all of them, once.
    ///
    /// **Errors.** Those of [`new`](Self::new).
    pub fn of_files(
        tensors: Vec<OutputTensor>,
        files: Vec<(String, Vec<usize>)>,
    ) -> Result<Self, Box<Diagnostic>> {
        Self::in_files(tensors, files, &[], 0)
    }

    fn in_files(
        tensors: Vec<OutputTensor>,
        files: Vec<(String, Vec<usize>)>,
        sources: &[Option<u64>],
        shard_bytes: u64,
    ) -> Result<Self, Box<Diagnostic>> {
        check_names(&tensors)?;
        let mut total_bytes = 0_u64;
        for tensor in &tensors {
            // Room for headers is kept, so that no file offset can overflow later on.
            total_bytes = total_bytes
                .checked_add(tensor.shape.bytes(tensor.dtype))
                .filter(|&bytes| bytes <= i64::MAX as u64 / 2)
                .ok_or_else(|| {
                    Diagnostic::error(
                        codes::WRITE_FAILED,
                        "the output is larger than any file system can hold",
                    )
                    .fact("at tensor", tensor.name.clone())
                })?;
        }
        let mut places = vec![TensorPlace { shard: 0, offset: 0, bytes: 0 }; tensors.len()];
        let mut shards = Vec::with_capacity(files.len());
        for (position, (name, mut members)) in files.into_iter().enumerate() {
            members.sort_by_key(|&index| Reverse(tensors[index].dtype.bytes()));
            let mut header = header(&tensors, &members);
            if let Some(start) = best_start(&tensors, &members, sources) {
                pad(&mut header, start);
            }
            if header.len() - 8 > MAX_HEADER_BYTES {
                return Err(Box::new(header_too_large(&name, header.len() - 8, shard_bytes)));
            }
            let mut offset = header.len() as u64;
            for &index in &members {
                let bytes = tensors[index].shape.bytes(tensors[index].dtype);
                places[index] = TensorPlace { shard: position, offset, bytes };
                offset += bytes;
            }
            let (tensors, torch) = (members, None);
            shards.push(Shard { name, header, file_bytes: offset, tensors, torch });
        }
        Ok(Self { tensors, places, shards, total_bytes })
    }

    /// The tensors, in the order they were given in.
    pub fn tensors(&self) -> &[OutputTensor] {
        &self.tensors
    }

    /// Where tensor `index` lies.
    pub fn place(&self, index: usize) -> TensorPlace {
        self.places[index]
    }

    /// A digest of all that decides which byte lies where: names and headers of the files.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for shard in &self.shards {
            for part in [shard.name.as_bytes(), &shard.header] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes of all tensors, without headers.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes of all shards with their headers.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.file_bytes).sum()
    }

    /// The text of [`INDEX_NAME`], which stands beside several shards and not beside one.
    pub fn index_json(&self) -> Option<String> {
        if self.shards.len() < 2 {
            return None;
        }
        let mut map = Map::new();
        for (tensor, place) in self.tensors.iter().zip(&self.places) {
            map.insert(tensor.name.clone(), Value::String(self.shards[place.shard].name.clone()));
        }
        let index = json!({"metadata": {"total_size": self.total_bytes}, "weight_map": map});
        Some(format!("{index:#}\n"))
    }
}

fn check_names(tensors: &[OutputTensor]) -> Result<(), Box<Diagnostic>> {
    let mut seen = HashSet::with_capacity(tensors.len());
    for tensor in tensors {
        if tensor.name == "__metadata__" {
            return Err(Box::new(
                Diagnostic::error(codes::WRITE_FAILED, "a tensor cannot be named `__metadata__`")
                    .note("the safetensors format keeps this name for itself"),
            ));
        }
        if !seen.insert(tensor.name.as_str()) {
            return Err(Box::new(Diagnostic::error(
                codes::DUPLICATE_TENSOR,
                format!("the output would hold `{}` twice", tensor.name),
            )));
        }
    }
    Ok(())
}

/// The tensors of each shard, in order.
fn split(tensors: &[OutputTensor], shard_bytes: u64) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new()];
    let mut filled = 0_u64;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.shape.bytes(tensor.dtype);
        let open = groups.last().is_some_and(|group| !group.is_empty());
        if open && shard_bytes != 0 && filled + bytes > shard_bytes {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        groups.last_mut().expect("there is always an open shard").push(index);
    }
    groups
}

fn shard_name(position: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", position + 1),
    }
}

/// Length, JSON with keys in a fixed order, and spaces up to a multiple of 8.
fn header(tensors: &[OutputTensor], members: &[usize]) -> Vec<u8> {
    // `pt` is what transformers looks for before it loads a file.
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut offset = 0_u64;
    for &index in members {
        let OutputTensor { name, dtype, shape } = &tensors[index];
        let end = offset + shape.bytes(*dtype);
        let entry = json!({
            "dtype": dtype.safetensors_name(),
            "shape": shape.dimensions(),
            "data_offsets": [offset, end],
        });
        text.push_str(&format!(",{}:{entry}", Value::from(name.as_str())));
        offset = end;
    }
    text.push('}');
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header
}

/// Blocks of the file systems that can share them (Btrfs, XFS, bcachefs; their default).
const BLOCK_BYTES: u64 = 4096;

/// Where the data of a shard should begin within a block, so that most bytes of copies can share.
fn best_start(tensors: &[OutputTensor], members: &[usize], sources: &[Option<u64>]) -> Option<u64> {
    let mut bytes_by_start = BTreeMap::<u64, u64>::new();
    let mut at = 0_u64;
    for &index in members {
        let bytes = tensors[index].shape.bytes(tensors[index].dtype);
        if let Some(&Some(source)) = sources.get(index) {
            let start = (source % BLOCK_BYTES + BLOCK_BYTES - at % BLOCK_BYTES) % BLOCK_BYTES;
            // Data begins at a multiple of 8, or elements would not be aligned. Less than a block
            // has nothing to share.
            if start.is_multiple_of(8) && bytes >= BLOCK_BYTES {
                *bytes_by_start.entry(start).or_default() += bytes;
            }
        }
        at += bytes;
    }
    // Of equal ones the smallest, whatever the order of the map's iteration.
    let best = bytes_by_start.into_iter().max_by_key(|&(start, bytes)| (bytes, Reverse(start)));
    best.map(|(start, _)| start)
}

/// Adds spaces until the header ends at `start` within a block.
fn pad(header: &mut Vec<u8>, start: u64) {
    let missing = (start + BLOCK_BYTES - header.len() as u64 % BLOCK_BYTES) % BLOCK_BYTES;
    header.resize(header.len() + missing as usize, b' ');
    let length = header.len() as u64 - 8;
    header[..8].copy_from_slice(&length.to_le_bytes());
}

fn header_too_large(shard: &str, bytes: usize, shard_bytes: u64) -> Diagnostic {
    let help = match shard_bytes {
        0 => "split the output, for instance with `--shard-size 5GB`".to_owned(),
        _ => format!("choose a `--shard-size` well below {shard_bytes} bytes"),
    };
    Diagnostic::error(
        codes::WRITE_FAILED,
        "the header of a shard would be too long for other readers",
    )
    .in_file(shard)
    .fact("header", format!("{bytes} bytes"))
    .fact("limit", format!("{MAX_HEADER_BYTES} bytes"))
    .help(help)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

    use super::*;

    fn tensor(name: &str, dtype: DType, dimensions: &[u64]) -> OutputTensor {
        let shape = Shape::new(dimensions.to_vec()).unwrap();
        OutputTensor { name: name.to_owned(), dtype, shape }
    }

    fn bytes_of(index: usize, bytes: u64) -> Vec<u8> {
        (0..bytes).map(|at| (at as u8).wrapping_mul(31).wrapping_add(index as u8)).collect()
    }

    /// All shards as they will be on disk.
    fn assemble(layout: &Layout) -> Vec<Vec<u8>> {
        let mut files: Vec<Vec<u8>> = layout
            .shards()
            .iter()
            .map(|shard| {
                let mut file = shard.header.clone();
                file.resize(shard.file_bytes as usize, 0);
                file
            })
            .collect();
        for index in 0..layout.tensors().len() {
            let place = layout.place(index);
            let range = place.offset as usize..(place.offset + place.bytes) as usize;
            files[place.shard][range].copy_from_slice(&bytes_of(index, place.bytes));
        }
        files
    }

    /// The safetensors crate must see every tensor with its bytes, aligned.
    fn check_read_back(layout: &Layout) {
        let files = assemble(layout);
        for (shard, file) in layout.shards().iter().zip(&files) {
            let read = SafeTensors::deserialize(file).unwrap();
            assert_eq!(read.len(), shard.tensors.len());
            assert!(shard.header.len().is_multiple_of(8));
        }
        for (index, tensor) in layout.tensors().iter().enumerate() {
            let place = layout.place(index);
            let read = SafeTensors::deserialize(&files[place.shard]).unwrap();
            let view = read.tensor(&tensor.name).unwrap();
            let shape: Vec<u64> = view.shape().iter().map(|&n| n as u64).collect();
            assert_eq!(shape, tensor.shape.dimensions());
            assert_eq!(view.dtype().to_string(), tensor.dtype.safetensors_name());
            assert_eq!(view.data(), bytes_of(index, place.bytes));
            assert!(place.offset.is_multiple_of(tensor.dtype.bytes() as u64), "{}", tensor.name);
        }
    }

    #[test]
    fn mixed_widths_are_aligned_and_without_holes() {
        let layout = Layout::new(
            vec![
                tensor("flags", DType::Bool, &[3]),
                tensor("a.weight", DType::Bf16, &[3, 5]),
                tensor("empty", DType::F32, &[0, 7]),
                tensor("scalar", DType::I64, &[]),
                tensor("b.weight", DType::F32, &[3]),
                tensor("name \"quoted\" \u{e9}\n", DType::Bf16, &[1]),
            ],
            0,
        )
        .unwrap();
        check_read_back(&layout);
        // Wider first, and in the given order among equals.
        assert_eq!(layout.shards()[0].tensors, [3, 2, 4, 1, 5, 0]);
    }

    #[test]
    fn the_safetensors_crate_writes_the_same_data_region() {
        let tensors = vec![tensor("b", DType::F32, &[2]), tensor("a", DType::Bf16, &[2, 3])];
        let layout = Layout::new(tensors, 0).unwrap();
        let data: Vec<Vec<u8>> = (0..2).map(|i| bytes_of(i, layout.place(i).bytes)).collect();
        let views = [
            ("b", TensorView::new(safetensors::Dtype::F32, vec![2], &data[0]).unwrap()),
            ("a", TensorView::new(safetensors::Dtype::BF16, vec![2, 3], &data[1]).unwrap()),
        ];
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let theirs = safetensors::serialize(views, Some(metadata)).unwrap();
        assert_eq!(assemble(&layout)[0], theirs);
    }

    #[test]
    fn shards_close_before_they_overflow() {
        let check = |limit: u64, expected: &[&[usize]]| {
            let sizes = [4, 4, 20, 2, 8, 2];
            let tensors =
                sizes.iter().enumerate().map(|(i, &n)| tensor(&format!("t{i}"), DType::U8, &[n]));
            let layout = Layout::new(tensors.collect(), limit).unwrap();
            let found: Vec<&[usize]> =
                layout.shards().iter().map(|shard| shard.tensors.as_slice()).collect();
            assert_eq!(found, expected, "limit {limit}");
            check_read_back(&layout);
        };
        check(0, &[&[0, 1, 2, 3, 4, 5]]);
        check(8, &[&[0, 1], &[2], &[3], &[4], &[5]]);
        check(10, &[&[0, 1], &[2], &[3, 4], &[5]]);
        check(1, &[&[0], &[1], &[2], &[3], &[4], &[5]]);
        check(1000, &[&[0, 1, 2, 3, 4, 5]]);
    }

    #[test]
    fn names_and_index() {
        let tensors = vec![tensor("x", DType::U8, &[4]), tensor("y", DType::U8, &[4])];
        let one = Layout::new(tensors.clone(), 8).unwrap();
        assert_eq!(one.shards()[0].name, "model.safetensors");
        assert_eq!(one.index_json(), None);
        let two = Layout::new(tensors, 4).unwrap();
        assert_eq!(two.shards()[1].name, "model-00002-of-00002.safetensors");
        let index: Value = serde_json::from_str(&two.index_json().unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 8);
        assert_eq!(index["weight_map"]["y"], "model-00002-of-00002.safetensors");
    }

    #[test]
    fn names_that_cannot_be_written_are_refused() {
        let twice = vec![tensor("x", DType::U8, &[1]), tensor("x", DType::U8, &[1])];
        assert_eq!(Layout::new(twice, 0).unwrap_err().code, codes::DUPLICATE_TENSOR);
        let reserved = vec![tensor("__metadata__", DType::U8, &[1])];
        assert_eq!(Layout::new(reserved, 0).unwrap_err().code, codes::WRITE_FAILED);
        let huge = vec![tensor("x", DType::U8, &[u64::MAX / 8]); 1];
        assert!(Layout::new(huge, 0).is_ok());
        let names = ["a", "b", "c", "d", "e"];
        let huge = names.iter().map(|name| tensor(name, DType::U8, &[u64::MAX / 8])).collect();
        assert_eq!(Layout::new(huge, 0).unwrap_err().code, codes::WRITE_FAILED);
    }

    #[test]
    fn copies_lie_where_their_sources_lie_within_a_block() {
        let tensors = vec![
            tensor("a", DType::Bf16, &[3000]),
            tensor("b", DType::Bf16, &[5000]),
            tensor("c", DType::Bf16, &[10]),
            tensor("d", DType::Bf16, &[4000]),
        ];
        let check = |sources: &[Option<u64>], shard_bytes: u64, shared: &[usize]| {
            let layout = Layout::sharing(tensors.clone(), shard_bytes, sources).unwrap();
            check_read_back(&layout);
            for (index, source) in sources.iter().enumerate() {
                let agrees =
                    source.is_some_and(|at| layout.place(index).offset % 4096 == at % 4096);
                assert_eq!(agrees, shared.contains(&index), "tensor {index} of {sources:?}");
            }
        };
        // From one file in the same order, behind a header of 1 000 bytes.
        check(&[Some(1000), Some(7000), None, Some(17020)], 0, &[0, 1, 3]);
        // The larger tensor wins.
        check(&[Some(1000), Some(7008), None, None], 0, &[1]);
        // A start that would not align elements is not taken.
        check(&[Some(1001), None, None, None], 0, &[]);
        // Each shard has its own.
        check(&[Some(8), Some(16), Some(24), Some(32)], 1, &[0, 1, 3]);
        let plain = Layout::new(tensors.clone(), 0).unwrap();
        assert_eq!(Layout::sharing(tensors.clone(), 0, &[None; 4]).unwrap(), plain);
    }

    #[test]
    fn nothing_is_still_a_readable_file() {
        check_read_back(&Layout::new(Vec::new(), 5).unwrap());
    }

    proptest! {
        #[test]
        fn any_list_reads_back(
            list in proptest::collection::vec((0_usize..6, 0_u64..9, 1_u64..4), 0..20),
            limit in 0_u64..200,
        ) {
            let dtypes = [DType::F64, DType::F32, DType::Bf16, DType::U8, DType::Bool, DType::I16];
            let tensors = list.iter().enumerate()
                .map(|(i, &(d, rows, columns))| tensor(&format!("t{i}"), dtypes[d], &[rows, columns]))
                .collect();
            check_read_back(&Layout::new(tensors, limit).unwrap());
        }
    }
}
