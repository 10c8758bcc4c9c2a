//! The pieces of a sentencepiece model, from its message of protocol buffers.

/// A token with what the model says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub text: String,
    pub score: f32,
    /// 1 is a part of texts; control tokens, bytes and others have other numbers.
    pub kind: i32,
}

/// What a piece is where nothing is said.
const NORMAL: i32 = 1;

/// Reads the pieces in the order of their ids; none if the bytes are no such model.
pub fn read(bytes: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (field, value) = take_field(&mut rest)?;
        let (1, Field::Bytes(mut piece)) = (field, value) else { continue };
        let (mut text, mut score, mut kind) = (String::new(), 0.0, NORMAL);
        while !piece.is_empty() {
            match take_field(&mut piece)? {
                (1, Field::Bytes(bytes)) => text = String::from_utf8(bytes.to_vec()).ok()?,
                (2, Field::Fixed(bits)) => score = f32::from_bits(bits),
                (3, Field::Number(number)) => kind = i32::try_from(number).ok()?,
                _ => {}
            }
        }
        pieces.push(Piece { text, score, kind });
    }
    (!pieces.is_empty()).then_some(pieces)
}

enum Field<'b> {
    Number(u64),
    Fixed(u32),
    Bytes(&'b [u8]),
}

/// The next field of a message of protocol buffers.
fn take_field<'b>(rest: &mut &'b [u8]) -> Option<(u64, Field<'b>)> {
    let key = take_number(rest)?;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        *rest = left;
        Some(taken)
    };
    let field = match key & 7 {
        0 => Field::Number(take_number(rest)?),
        1 => {
            take(8)?;
            Field::Number(0)
        }
        5 => Field::Fixed(u32::from_le_bytes(take(4)?.try_into().ok()?)),
        2 => {
            let count = usize::try_from(take_number(rest)?).ok()?;
            let (taken, left) = rest.split_at_checked(count)?;
            *rest = left;
            Field::Bytes(taken)
        }
        _ => return None,
    };
    Some((key >> 3, field))
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_order() {
        // Two pieces, the second with a score and a kind, and a field that is not asked for.
        let bytes = [
            b"\x0a\x03\x0a\x01a".as_slice(),
            b"\x0a\x0a\x0a\x01b\x15\x00\x00\x80\xbf\x18\x03",
            b"\x12\x02\x18\x02",
        ];
        let piece = |text: &str, score, kind| Piece { text: text.to_owned(), score, kind };
        assert_eq!(read(&bytes.concat()), Some(vec![piece("a", 0.0, 1), piece("b", -1.0, 3)]));
        for other in [b"".as_slice(), b"YQ== 0\n", b"\x0a\xff", b"{}"] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
