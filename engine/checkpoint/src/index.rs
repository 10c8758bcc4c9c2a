//! What a checkpoint holds: name, dtype, shape and place of each tensor. Knows no files: an index
//! can be made from a list, and the plan needs nothing else.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use mixdown_tensor::{DType, Shape};

use crate::encoding::{Blocks, Encoding, ReadAt};
use crate::shown::shown;
use crate::source::ReadError;

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its full dotted name; without the prefix, where a prefix was asked for.
    pub name: String,
    /// Type of its elements, as reading gives them.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
    /// Position of its shard in [`Index::shards`].
    pub shard: u32,
    /// Its first byte, counted from the start of the shard's file.
    pub offset: u64,
    /// How it lies in files, where it is not stored as numbers; shard and offset are those of its codes.
    pub encoding: Option<Arc<Encoding>>,
}

impl TensorEntry {
    /// Count of bytes of its elements, as reading gives them.
    pub fn bytes(&self) -> u64 {
        self.shape.bytes(self.dtype)
    }

    /// The same tensor in another shard of a checkpoint.
    pub(crate) fn in_shard(self, shard: u32) -> Self {
        let encoding = self.encoding.map(|encoding| Arc::new(encoding.in_shard(shard)));
        Self { shard, encoding, ..self }
    }

    /// The same in a list of files that begins with `more` others, itself in `shard`.
    pub(crate) fn moved(self, more: u32, shard: u32) -> Self {
        let encoding = self.encoding.map(|encoding| Arc::new(encoding.moved(more)));
        Self { shard, encoding, ..self }
    }

    /// Count of bytes in files.
    pub fn stored_bytes(&self) -> u64 {
        self.encoding.as_ref().map_or(self.bytes(), |encoding| encoding.bytes())
    }

    /// How it is stored, in words: its type, or the codec with its settings.
    pub fn stored_as(&self) -> &str {
        self.encoding.as_ref().map_or(self.dtype.name(), |encoding| encoding.scheme())
    }

    /// The type in which the model calculates with it: that of its elements, unless it is packed.
    pub fn model_dtype(&self) -> DType {
        self.encoding.as_ref().map_or(self.dtype, |encoding| encoding.model_dtype())
    }

    /// Bytes in files for so many elements from `first` on, so that all stretches give all bytes.
    pub fn stored_stretch(&self, first: u64, count: u64) -> (u64, u64) {
        let (all, elements) = (u128::from(self.stored_bytes()), u128::from(self.shape.elements()));
        let at =
            |element: u64| (all * u128::from(element)).checked_div(elements).unwrap_or(0) as u64;
        let start = at(first);
        (start, at(first.saturating_add(count)).saturating_sub(start))
    }

    /// Fills `buffer` with the elements from `first` on. `from` reads the checkpoint's shards, and
    /// `blocks` keeps what is read of packed tensors for the next stretch.
    ///
    /// **Errors.** Those of `from`, and values among the parts of a packed tensor that cannot be.
    pub fn read(
        &self,
        first: u64,
        buffer: &mut [u8],
        from: &ReadAt<'_>,
        blocks: &Blocks,
    ) -> Result<(), ReadError> {
        match &self.encoding {
            Some(encoding) => {
                let of = (self.name.as_str(), self.shape.elements());
                encoding.read(of, first, buffer, from, blocks)
            }
            None => from(self.shard, self.offset + first * self.dtype.bytes() as u64, buffer),
        }
    }
}

/// What tells one state of a file from another without reading it.
///
/// Device, inode and time of change are 0 where the system has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last write, in nanoseconds since 1970. Programs that copy files set it as they like.
    pub modified_ns: i128,
    /// Time of the last change of content, rights or links, in nanoseconds since 1970. Only the system sets it.
    pub changed_ns: i128,
    /// Number of the file in its file system.
    pub inode: u64,
    /// Number of the file system.
    pub device: u64,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// As messages show it: the user's own spelling of the checkpoint, then the file.
    pub shown: String,
    /// Size in bytes.
    pub size: u64,
    /// Its state when its header was read.
    pub identity: Identity,
}

/// Two tensors of one index have the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateName(pub String);

impl fmt::Display for DuplicateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two tensors are named `{}`", shown(&self.0))
    }
}

impl std::error::Error for DuplicateName {}

/// The tensors of a checkpoint, in the order of their places: shard, then offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    shards: Vec<Shard>,
    tensors: Vec<TensorEntry>,
    /// Positions in `tensors`, in the order of names.
    by_name: Vec<u32>,
}

impl Index {
    /// An index of these tensors; [`TensorEntry::shard`] counts in `shards`.
    ///
    /// **Errors.** When two tensors have the same name.
    pub fn new(shards: Vec<Shard>, mut tensors: Vec<TensorEntry>) -> Result<Self, DuplicateName> {
        // Empty tensors share their offset with the next one; size and name make the order total.
        tensors.sort_by(|a, b| {
            (a.shard, a.offset, a.bytes(), &a.name).cmp(&(b.shard, b.offset, b.bytes(), &b.name))
        });
        let count = u32::try_from(tensors.len()).expect("a header has fewer than 2^32 tensors");
        let mut by_name: Vec<u32> = (0..count).collect();
        let name_at = |position: u32| tensors[position as usize].name.as_str();
        by_name.sort_by_key(|&position| name_at(position));
        for pair in by_name.windows(2) {
            if name_at(pair[0]) == name_at(pair[1]) {
                return Err(DuplicateName(name_at(pair[0]).to_owned()));
            }
        }
        Ok(Self { shards, tensors, by_name })
    }

    /// An index of tensors that lie one after another in a single shard which need not exist.
    ///
    /// For tests and for planning without files.
    ///
    /// **Errors.** When two tensors have the same name.
    pub fn of<N: Into<String>>(
        shown: &str,
        tensors: impl IntoIterator<Item = (N, DType, Shape)>,
    ) -> Result<Self, DuplicateName> {
        let mut end = 0;
        let mut entries = Vec::new();
        for (name, dtype, shape) in tensors {
            let entry = TensorEntry {
                name: name.into(),
                dtype,
                shape,
                shard: 0,
                offset: end,
                encoding: None,
            };
            end += entry.bytes();
            entries.push(entry);
        }
        let shard = Shard {
            path: PathBuf::from(shown),
            shown: shown.to_owned(),
            size: end,
            identity: Identity { size: end, ..Identity::default() },
        };
        Self::new(vec![shard], entries)
    }

    /// The same files with other names: of the tensors that `name` gives one to.
    ///
    /// **Errors.** When two tensors get the same name.
    pub fn renamed(&self, name: &dyn Fn(&str) -> Option<String>) -> Result<Self, DuplicateName> {
        let tensors = self
            .tensors
            .iter()
            .filter_map(|tensor| Some(TensorEntry { name: name(&tensor.name)?, ..tensor.clone() }));
        Self::new(self.shards.clone(), tensors.collect())
    }

    /// The files, in the order of their names.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard that holds this tensor.
    pub fn shard_of(&self, tensor: &TensorEntry) -> &Shard {
        &self.shards[tensor.shard as usize]
    }

    /// All tensors, in the order of shard and offset.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// All tensors, in the order of their names.
    pub fn by_name(&self) -> impl ExactSizeIterator<Item = &TensorEntry> {
        self.by_name.iter().map(|&position| &self.tensors[position as usize])
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.position(name).map(|position| &self.tensors[position])
    }

    /// Where the tensor of this name stands in [`Index::tensors`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name
            .binary_search_by_key(&name, |&position| &self.tensors[position as usize].name)
            .ok()
            .map(|found| self.by_name[found] as usize)
    }

    /// Count of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of all tensors together, in files.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(TensorEntry::stored_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, shard: u32, offset: u64, elements: u64) -> TensorEntry {
        let shape = Shape::new(vec![elements]).unwrap();
        TensorEntry {
            name: name.to_owned(),
            dtype: DType::Bf16,
            shape,
            shard,
            offset,
            encoding: None,
        }
    }

    /// Reading in name order would jump about in the files.
    #[test]
    fn order_is_by_place_and_lookup_by_name() {
        let entries = [("z", 0, 8, 2), ("b", 1, 8, 2), ("a", 1, 12, 2), ("e", 0, 8, 0)];
        let entries = entries.map(|(name, shard, offset, n)| entry(name, shard, offset, n));
        let index = Index::new(Vec::new(), entries.to_vec()).unwrap();
        let names: Vec<&str> = index.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["e", "z", "b", "a"]);
        let names: Vec<&str> = index.by_name().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "e", "z"]);
        for name in names {
            assert_eq!(index.get(name).unwrap().name, name);
        }
        assert!(index.get("c").is_none());
        assert_eq!(index.bytes(), 12);
    }

    #[test]
    fn two_tensors_of_one_name_are_refused() {
        let entries = vec![entry("a", 0, 8, 1), entry("b", 0, 10, 1), entry("a", 1, 8, 1)];
        assert_eq!(Index::new(Vec::new(), entries), Err(DuplicateName("a".to_owned())));
    }

    #[test]
    fn a_list_becomes_an_index_without_files() {
        let shape = |n| Shape::new(vec![n, 2]).unwrap();
        let list = [("b", DType::F32, shape(3)), ("a", DType::Bf16, shape(1))];
        let index = Index::of("model", list).unwrap();
        assert_eq!(index.get("b").unwrap().offset, 0);
        assert_eq!(index.get("a").unwrap().offset, 24);
        assert_eq!(index.shards()[0].size, 28);
        assert_eq!(index.shard_of(index.get("a").unwrap()).shown, "model");
    }
}
