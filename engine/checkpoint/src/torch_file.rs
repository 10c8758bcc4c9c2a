//! A file of tensors as `torch.save` writes it, laid out before anything is computed: a zip archive of
//! stored entries, one a pickle that describes the tensors, and one for the bytes of each.
//!
//! Tensors can then be written at their places in any order. Only the archive's checksums must wait until
//! all bytes are there: [`TorchFile::parts`] with them is what seals the file.

mod archive;
mod crc32;
mod pickle;

use mixdown_diagnostics::{Diagnostic, codes};

use crate::layout::OutputTensor;
use crate::shown::shown;
use archive::{Archive, Content};
pub use crc32::Crc32;

/// The version of the format, as torch writes it since 1.6.
const VERSION: &[u8] = b"3\n";

/// Where each byte of the file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorchFile {
    archive: Archive,
    /// Entries before those of tensors.
    known: usize,
}

impl TorchFile {
    /// Lays out a file called `name` with these tensors in this order, each beginning at a multiple of 64.
    ///
    /// **Errors.** A tensor of a type that torch has no storage for.
    pub fn new(tensors: &[OutputTensor], name: &str) -> Result<Self, Box<Diagnostic>> {
        // The archive's folder is named for the file, as torch does.
        let folder = name.split('.').next().unwrap_or(name);
        let known = [
            ("data.pkl", pickle::state(tensors).map_err(unwritten)?),
            ("byteorder", b"little".to_vec()),
            ("version", VERSION.to_vec()),
        ];
        let named = |entry: &str| format!("{folder}/{entry}");
        let mut entries: Vec<(String, Content)> =
            known.into_iter().map(|(name, bytes)| (named(name), Content::Known(bytes))).collect();
        let known = entries.len();
        for (number, tensor) in tensors.iter().enumerate() {
            let bytes = tensor.shape.bytes(tensor.dtype);
            entries.push((named(&format!("data/{number}")), Content::Later(bytes)));
        }
        Ok(Self { archive: Archive::new(entries), known })
    }

    /// First byte of a tensor.
    pub fn offset(&self, tensor: usize) -> u64 {
        self.archive.offset(self.known + tensor)
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.archive.bytes()
    }

    /// All bytes that are no tensor's, with their places, in the order of the file. `sums` are the checksums
    /// of the tensors' bytes, in their order; without them the archive is readable, but not proven.
    pub fn parts(&self, sums: Option<&[u32]>) -> Vec<(u64, Vec<u8>)> {
        self.archive.parts(sums.unwrap_or_default())
    }
}

fn unwritten(tensor: &OutputTensor) -> Box<Diagnostic> {
    let headline = format!("`{}` cannot be in a file of torch", shown(&tensor.name));
    Box::new(
        Diagnostic::error(codes::WRITE_FAILED, headline)
            .fact("type", tensor.dtype.name())
            .help("write another layout, or leave this tensor out"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use mixdown_tensor::{DType, Shape};

    use super::*;
    use crate::format::{Format, torch::Torch};
    use crate::source::{ByteSource, ReadError};

    fn tensor(name: &str, dtype: DType, dimensions: &[u64]) -> OutputTensor {
        let shape = Shape::new(dimensions.to_vec()).unwrap();
        OutputTensor { name: name.to_owned(), dtype, shape }
    }

    /// A file whose bytes are those of some parts, and else 0: as large as one likes.
    struct Sparse(Vec<(u64, Vec<u8>)>, u64);

    impl ByteSource for Sparse {
        fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
            buffer.fill(0);
            let first = self.0.partition_point(|(at, bytes)| at + bytes.len() as u64 <= offset);
            let end = offset + buffer.len() as u64;
            for (at, bytes) in self.0[first..].iter().take_while(|(at, _)| *at < end) {
                let from = offset.max(*at);
                let to = (offset + buffer.len() as u64).min(at + bytes.len() as u64);
                if from < to {
                    let part = &bytes[(from - at) as usize..(to - at) as usize];
                    buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
                }
            }
            Ok(())
        }

        fn will_need(&self, _: u64, _: u64) {}

        fn len(&self) -> u64 {
            self.1
        }
    }

    /// mixdown's own reader must find every tensor at its place.
    fn check(tensors: &[OutputTensor]) -> TorchFile {
        let file = TorchFile::new(tensors, "adapter_model.bin").unwrap();
        let source = Sparse(file.parts(None), file.bytes());
        let header = Torch.read_header(&source, "adapter_model.bin").unwrap();
        assert_eq!(header.tensors.len(), tensors.len());
        let found: HashMap<&str, _> =
            header.tensors.iter().map(|found| (found.name.as_str(), found)).collect();
        for (number, tensor) in tensors.iter().enumerate() {
            let found = found[tensor.name.as_str()];
            assert_eq!((found.dtype, &found.shape), (tensor.dtype, &tensor.shape));
            assert_eq!(found.offset, file.offset(number), "{}", tensor.name);
            assert!(found.offset.is_multiple_of(64), "{}", tensor.name);
        }
        file
    }

    #[test]
    fn tensors_are_read_back_at_their_places() {
        check(&[]);
        check(&[
            tensor("a.lora_A.default.weight", DType::F32, &[2, 3]),
            tensor("empty", DType::F16, &[0, 7]),
            tensor("scalar", DType::I64, &[]),
            tensor("name with \u{e9}", DType::Bf16, &[5]),
            tensor("flags", DType::Bool, &[3]),
        ]);
        let refused = TorchFile::new(&[tensor("x", DType::F8E4M3, &[1])], "x.bin").unwrap_err();
        assert_eq!(refused.code, codes::WRITE_FAILED);
    }

    /// Beyond 4 GiB, and beyond 65 535 entries, numbers need zip64's records.
    #[test]
    fn large_files_have_records_of_64_bits() {
        let one = 1 << 33;
        let file = check(&[
            tensor("large", DType::F16, &[one]),
            tensor("after", DType::F32, &[3]),
            tensor("wide", DType::F32, &[3, 1 << 40]),
        ]);
        assert!(file.offset(1) > 2 * one);
        let many: Vec<OutputTensor> =
            (0..70_000).map(|number| tensor(&format!("t{number}"), DType::U8, &[1])).collect();
        check(&many);
    }

    #[test]
    fn checksums_change_no_place() {
        let file = check(&[tensor("a", DType::F32, &[2]), tensor("b", DType::F32, &[3])]);
        let (plain, sealed) = (file.parts(None), file.parts(Some(&[0x1234_5678, 0x9abc_def0])));
        let places = |parts: &[(u64, Vec<u8>)]| -> Vec<(u64, usize)> {
            parts.iter().map(|(at, bytes)| (*at, bytes.len())).collect()
        };
        assert_eq!(places(&plain), places(&sealed));
        let all = |parts: &[(u64, Vec<u8>)]| parts.iter().flat_map(|(_, b)| b.clone()).collect();
        let (plain, sealed): (Vec<u8>, Vec<u8>) = (all(&plain), all(&sealed));
        let has =
            |bytes: &[u8], sum: u32| bytes.windows(4).filter(|w| *w == sum.to_le_bytes()).count();
        assert_eq!((has(&plain, 0x1234_5678), has(&sealed, 0x1234_5678)), (0, 2));
    }
}
