//! Files that are cut or bent: refused, or harmless.

use super::*;

/// What is accepted lies inside the file.
fn check_header(file: &[u8], header: &Header) {
    for tensor in &header.tensors {
        let end = tensor.offset.checked_add(tensor.bytes()).unwrap();
        assert!(end <= file.len() as u64, "{tensor:?}");
    }
}

fn damaged_samples() -> Vec<Vec<u8>> {
    let wide = Zip { wide: true, ..sound() };
    vec![
        sound().bytes(),
        wide.bytes(),
        sound_legacy(),
        fixture("plain.bin"),
        fixture("legacy.bin"),
        fixture("nested.bin"),
        fixture("untyped.bin"),
        fixture("protocol4.bin"),
    ]
}

#[test]
fn every_truncation_is_refused() {
    for sound in damaged_samples() {
        check_header(&sound, &read(&sound).unwrap());
        for end in 0..sound.len() {
            assert!(read(&sound[..end]).is_err(), "cut to {end} bytes");
        }
    }
}

#[test]
fn every_bent_byte_is_refused_or_harmless() {
    for sound in damaged_samples().into_iter().take(4) {
        for at in 0..sound.len() {
            for bits in [1 << (at % 8), 0xff] {
                let mut file = sound.clone();
                file[at] ^= bits;
                if let Ok(header) = read(&file) {
                    check_header(&file, &header);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn bent_bits_are_refused_or_harmless(
        which in 0..8usize,
        flips in prop::collection::vec((any::<usize>(), 0..8u8), 1..6),
    ) {
        let mut file = damaged_samples().swap_remove(which);
        for (at, bit) in flips {
            let at = at % file.len();
            file[at] ^= 1 << bit;
        }
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }

    /// Instructions in any order.
    #[test]
    fn no_pickle_does_harm(
        parts in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&b"(01NlaedsuRbQ)]}t.\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"[..])
                    .prop_map(|code| vec![code]),
                Just(b"X\x01\0\0\0a".to_vec()),
                Just(b"X\x07\0\0\0storage".to_vec()),
                Just(b"ctorch\nFloatStorage\n".to_vec()),
                Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
                Just(b"ccollections\nOrderedDict\n".to_vec()),
                (0..4u8).prop_map(|number| vec![b'K', number]),
                (0..4u8).prop_map(|number| vec![b'q', number]),
                (0..4u8).prop_map(|number| vec![b'h', number]),
            ],
            0..60,
        ),
    ) {
        let file = with(Pickle::new().raw(&parts.concat()).stop());
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }

    /// Numbers at the edges, in every place that has one.
    #[test]
    fn bent_numbers_are_refused_or_harmless(
        numbers in prop::collection::vec(
            prop_oneof![-2..4i64, Just(i64::MAX), Just(i64::MIN), Just(1 << 32), any::<i64>()],
            6,
        ),
    ) {
        let [count, offset, a, b, c, d] = numbers[..] else { unreachable!() };
        let file = with(dict(|p| {
            p.text("a").tensor(("FloatStorage", "0", count), offset, &[a, b], &[c, d])
        }));
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }
}
