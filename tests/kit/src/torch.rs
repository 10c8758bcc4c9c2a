//! PyTorch's files byte by byte, true ones and ones that lie: a pickle's instructions, the zip archive
//! around it, and the older form without one. Checksums in archives are left 0; torch would mind.

use mixdown_tensor::DType;

use crate::tensor::Tensor;

/// A pickle, instruction by instruction, in the order in which Python's `pickletools` lists them.
#[derive(Clone, Debug, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    /// Protocol 2, as torch uses it.
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    /// These bytes, whatever they mean.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text.
    pub fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    /// A whole number of up to 64 bits.
    pub fn int(self, number: i64) -> Self {
        match i32::try_from(number) {
            Ok(number) => self.raw(b"J").raw(&number.to_le_bytes()),
            Err(_) => self.raw(&[0x8a, 8]).raw(&number.to_le_bytes()),
        }
    }

    /// A tuple of whole numbers.
    pub fn ints(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.raw(b"("), |pickle, number| pickle.int(*number)).raw(b"t")
    }

    /// Something that is imported.
    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A reference to a storage.
    pub fn storage(self, kind: &str, key: &str, count: i64) -> Self {
        let reference = self.raw(b"(").text("storage").global("torch", kind).text(key);
        reference.text("cpu").int(count).raw(b"tQ")
    }

    /// A tensor: its storage, then the place in it, shape and strides, in elements.
    pub fn tensor(
        self,
        (kind, key, count): (&str, &str, i64),
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"(")
            .storage(kind, key, count)
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89") // No gradient is wanted.
            .global("collections", "OrderedDict")
            .raw(b")RtR")
    }

    /// The end.
    pub fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// The strides of a tensor that is stored row by row.
pub fn row_strides(shape: &[u64]) -> Vec<i64> {
    (1..=shape.len()).map(|axis| shape[axis..].iter().product::<u64>() as i64).collect()
}

/// The pickle of a dictionary of these tensors, each with a storage of its own, named by its number.
pub fn state_pickle(tensors: &[&Tensor]) -> Vec<u8> {
    let mut pickle = Pickle::new().raw(b"}(");
    for (number, tensor) in tensors.iter().enumerate() {
        let storage = (storage_name(tensor.dtype), &*number.to_string(), tensor.elements() as i64);
        let shape: Vec<i64> = tensor.shape.iter().map(|size| *size as i64).collect();
        pickle = pickle.text(&tensor.name).tensor(storage, 0, &shape, &row_strides(&tensor.shape));
    }
    pickle.raw(b"u").stop()
}

fn storage_name(dtype: DType) -> &'static str {
    match dtype {
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
        other => panic!("torch has no storage of {other}"),
    }
}

/// A sound archive of these tensors.
pub fn torch_bytes(tensors: &[&Tensor]) -> Vec<u8> {
    let data: Vec<&[u8]> = tensors.iter().map(|tensor| tensor.data.as_slice()).collect();
    torch_archive(&state_pickle(tensors), &data).bytes()
}

/// An archive with this pickle, and with storages named by their numbers.
pub fn torch_archive(pickle: &[u8], storages: &[&[u8]]) -> Zip {
    let mut zip = Zip::default().with("model/data.pkl", pickle).with("model/byteorder", b"little");
    for (number, data) in storages.iter().enumerate() {
        zip = zip.with(&format!("model/data/{number}"), data);
    }
    zip.with("model/version", b"3\n")
}

/// A file in the form before archives: a pickle, keys of storages, and each one's count and bytes.
pub fn legacy_torch(pickle: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let magic = Pickle::new().raw(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19").stop();
    let version = Pickle::new().int(1001).stop();
    let system = Pickle::new().raw(b"}(").text("little_endian").raw(b"\x88u").stop();
    let keys = storages.iter().fold(Pickle::new().raw(b"]("), |keys, (key, ..)| keys.text(key));
    let mut file = [&magic, &version, &system, pickle, &keys.raw(b"e").stop()].concat();
    for (_, count, data) in storages {
        file.extend(count.to_le_bytes());
        file.extend_from_slice(data);
    }
    file
}

/// An entry of an archive, and what is told about it.
#[derive(Clone, Debug)]
pub struct ZipEntry {
    /// Its name in the directory.
    pub name: String,
    /// Its name before its data.
    pub local_name: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// Flags: 1 for encrypted ones.
    pub flags: u16,
    /// How it is compressed: 0 for not at all.
    pub method: u16,
    /// How long the directory says it is.
    pub size: u64,
    /// Where the directory says that it begins, if not where it does.
    pub header: Option<u64>,
}

/// A zip archive.
#[derive(Clone, Debug, Default)]
pub struct Zip {
    /// Its entries, in their order.
    pub entries: Vec<ZipEntry>,
    /// Whether sizes and places are told in 64 bits.
    pub wide: bool,
    /// What stands at the very end.
    pub comment: Vec<u8>,
    /// Changes what is told of the directory: count of entries, size, place.
    pub directory: Option<[u64; 3]>,
}

impl Zip {
    /// Adds an entry.
    pub fn with(mut self, name: &str, data: &[u8]) -> Self {
        self.entries.push(ZipEntry {
            name: name.to_owned(),
            local_name: name.to_owned(),
            data: data.to_vec(),
            flags: 0,
            method: 0,
            size: data.len() as u64,
            header: None,
        });
        self
    }

    /// Changes the entry of this name.
    pub fn change(mut self, name: &str, change: impl FnOnce(&mut ZipEntry)) -> Self {
        let entry = self.entries.iter_mut().find(|entry| entry.name == name);
        change(entry.expect("an entry of that name"));
        self
    }

    /// Removes the entry of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.entries.retain(|entry| entry.name != name);
        self
    }

    /// The archive. Data begins at multiples of 64, as torch arranges it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut directory = Vec::new();
        for entry in &self.entries {
            let header = entry.header.unwrap_or(file.len() as u64);
            let pad = (64 - (file.len() + 30 + entry.local_name.len()) % 64) % 64;
            let size = narrow(entry.data.len() as u64, false);
            numbers(&mut file, &[(4, 0x0403_4b50), (2, 0), (2, entry.flags.into())]);
            numbers(&mut file, &[(2, entry.method.into()), (8, 0), (4, size), (4, size)]);
            numbers(&mut file, &[(2, entry.local_name.len() as u64), (2, pad as u64)]);
            file.extend_from_slice(entry.local_name.as_bytes());
            file.resize(file.len() + pad, b'Z');
            file.extend_from_slice(&entry.data);

            let (size, more) = (narrow(entry.size, self.wide), if self.wide { 28 } else { 0 });
            numbers(&mut directory, &[(4, 0x0201_4b50), (4, 0), (2, entry.flags.into())]);
            numbers(&mut directory, &[(2, entry.method.into()), (8, 0), (4, size), (4, size)]);
            numbers(&mut directory, &[(2, entry.name.len() as u64), (2, more), (2, 0), (2, 0)]);
            numbers(&mut directory, &[(6, 0), (4, narrow(header, self.wide))]);
            directory.extend_from_slice(entry.name.as_bytes());
            if self.wide {
                numbers(&mut directory, &[(2, 1), (2, 24), (8, entry.size), (8, entry.size)]);
                numbers(&mut directory, &[(8, header)]);
            }
        }
        let told = [self.entries.len(), directory.len(), file.len()].map(|number| number as u64);
        let [count, size, at] = self.directory.unwrap_or(told);
        file.extend_from_slice(&directory);
        if self.wide {
            let record = file.len() as u64;
            numbers(&mut file, &[(4, 0x0606_4b50), (8, 44), (4, 0), (4, 0), (4, 0), (8, count)]);
            numbers(&mut file, &[(8, count), (8, size), (8, at)]);
            numbers(&mut file, &[(4, 0x0706_4b50), (4, 0), (8, record), (4, 1)]);
        }
        let count = if self.wide { 0xffff } else { count };
        numbers(&mut file, &[(4, 0x0605_4b50), (4, 0), (2, count), (2, count)]);
        numbers(&mut file, &[(4, narrow(size, self.wide)), (4, narrow(at, self.wide))]);
        numbers(&mut file, &[(2, self.comment.len() as u64)]);
        file.extend_from_slice(&self.comment);
        file
    }
}

fn narrow(number: u64, wide: bool) -> u64 {
    if wide { 0xffff_ffff } else { number & 0xffff_ffff }
}

/// Appends numbers of so many bytes each.
fn numbers(to: &mut Vec<u8>, numbers: &[(usize, u64)]) {
    for (width, number) in numbers {
        to.extend_from_slice(&number.to_le_bytes()[..*width]);
    }
}
