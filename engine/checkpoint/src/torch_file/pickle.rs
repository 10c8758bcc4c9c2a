//! The pickle that describes a dictionary of tensors: the instructions that Python's protocol 2 has for it.

use mixdown_tensor::DType;

use crate::layout::OutputTensor;

/// The pickle of an ordered dictionary of these tensors, each with a storage of its own that is named by
/// its number. The error is a tensor of a type that torch has no storage for.
pub(super) fn state(tensors: &[OutputTensor]) -> Result<Vec<u8>, &OutputTensor> {
    let mut pickle = Pickle(vec![0x80, 2]);
    pickle.empty_dictionary();
    pickle.0.push(b'(');
    for (number, tensor) in tensors.iter().enumerate() {
        let storage = storage_name(tensor.dtype).ok_or(tensor)?;
        pickle.text(&tensor.name);
        pickle.tensor(storage, number, tensor);
    }
    pickle.0.extend(b"u.");
    Ok(pickle.0)
}

/// What torch calls a storage of this type.
fn storage_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::Bf16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        DType::Bool => "BoolStorage",
        DType::C64 => "ComplexFloatStorage",
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::U64 | DType::U32 | DType::U16 => {
            return None;
        }
    })
}

struct Pickle(Vec<u8>);

impl Pickle {
    /// Something that is imported.
    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        // Names come from headers, which are shorter than 4 GiB.
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    /// A number from 0 to 2⁶³ − 1: no tensor has more elements than a file has bytes.
    fn number(&mut self, number: u64) {
        match i32::try_from(number) {
            Ok(number) => {
                self.0.push(b'J');
                self.0.extend(number.to_le_bytes());
            }
            Err(_) => {
                self.0.extend([0x8a, 8]);
                self.0.extend(number.to_le_bytes());
            }
        }
    }

    fn numbers(&mut self, numbers: &[u64]) {
        self.0.push(b'(');
        numbers.iter().for_each(|&number| self.number(number));
        self.0.push(b't');
    }

    fn empty_dictionary(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend(b")R");
    }

    fn tensor(&mut self, storage: &str, key: usize, tensor: &OutputTensor) {
        let dimensions = tensor.shape.dimensions();
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.push(b'(');
        // The storage, as a reference that the loader resolves.
        self.0.push(b'(');
        self.text("storage");
        self.global("torch", storage);
        self.text(&key.to_string());
        self.text("cpu");
        self.number(tensor.shape.elements());
        self.0.extend(b"tQ");
        // Where the tensor begins in it, shape, strides, no gradient, no hooks.
        self.number(0);
        self.numbers(dimensions);
        self.numbers(&strides(dimensions));
        self.0.push(0x89);
        self.empty_dictionary();
        self.0.extend(b"tR");
    }
}

/// Elements from one index to the next along each dimension, row by row.
fn strides(dimensions: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; dimensions.len()];
    for axis in (1..dimensions.len()).rev() {
        // As torch counts them where a dimension has no elements.
        strides[axis - 1] = strides[axis] * dimensions[axis].max(1);
    }
    strides
}
