//! Safetensors files byte by byte, true ones and ones that lie.

use std::fmt::Write as _;

use crate::tensor::Tensor;

/// A file with this text as its header and this data after it, whatever they say.
pub fn raw_safetensors(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    raw_with_length(header.len() as u64, header, data)
}

/// The same, with a header length that need not be the header's.
pub fn raw_with_length(length: u64, header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = length.to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(data);
    file
}

/// A sound file of these tensors, in this order.
pub fn safetensors_bytes(tensors: &[&Tensor]) -> Vec<u8> {
    let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.data);
        write!(header, ",{}", header_entry(tensor, begin, data.len())).expect("text can grow");
    }
    header.push('}');
    // Tensors begin at a multiple of eight bytes, as other writers arrange it.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    raw_safetensors(header, &data)
}

/// One entry of a header: the tensor's own name, type and shape, and the byte range given.
pub fn header_entry(tensor: &Tensor, begin: usize, end: usize) -> String {
    format!(
        "{}:{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{begin},{end}]}}",
        serde_json::Value::from(tensor.name.as_str()),
        tensor.dtype.safetensors_name(),
        tensor.shape,
    )
}

#[cfg(test)]
mod tests {
    use mixdown_tensor::DType;
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn the_safetensors_crate_reads_what_is_written() {
        let a = Tensor::new("a \"quoted\"", DType::F32, &[2], &[1.0, 2.0]);
        let b = Tensor::new("b", DType::Bf16, &[1, 3], &[1.0, 2.0, 3.0]);
        let bytes = safetensors_bytes(&[&a, &b]);
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a \"quoted\"").unwrap().data(), a.data);
        assert_eq!(read.tensor("b").unwrap().shape(), [1, 3]);
    }

    #[test]
    fn a_lie_is_written_as_told() {
        let bytes = raw_with_length(9999, b"{}", &[]);
        assert_eq!(bytes[..8], 9999_u64.to_le_bytes());
        assert!(SafeTensors::deserialize(&bytes).is_err());
    }
}
