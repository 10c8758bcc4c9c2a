//! safetensors files that lie, one lie each, and sound files cut and bent at every place.

use mixdown_checkpoint::MemorySource;
use mixdown_checkpoint::format::safetensors::Safetensors;
use mixdown_checkpoint::format::{Format, Header};
use mixdown_diagnostics::{Diagnostic, Place, codes};
use mixdown_kit::raw::{raw_safetensors, raw_with_length};
use proptest::prelude::*;

fn read(file: &[u8]) -> Result<Header, Vec<Diagnostic>> {
    Safetensors.read_header(&MemorySource::new(file), "x.safetensors")
}

/// The file is refused with this headline alone, and these facts.
fn refused(file: &[u8], headline: &str, facts: &[(&str, &str)]) {
    let faults = read(file).expect_err(headline);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let fault = &faults[0];
    assert_eq!(fault.headline, headline);
    for (label, wanted) in facts {
        let found = fault.facts.iter().find(|(known, _)| known == label);
        let found = found.unwrap_or_else(|| panic!("no fact `{label}` in {fault:?}"));
        assert_eq!(found.1, *wanted, "{headline}");
    }
    let size = file.len() as u64;
    match &fault.place {
        Some(Place::Byte(name, at)) => assert!(name == "x.safetensors" && *at <= size, "{fault:?}"),
        Some(Place::File(name)) => assert_eq!(name, "x.safetensors"),
        place => panic!("{place:?}"),
    }
}

/// A file with one tensor `a`, whose entry is this text.
fn entry(text: &str, data: usize) -> Vec<u8> {
    raw_safetensors(format!(r#"{{"a": {text}}}"#), &vec![0; data])
}

/// Two tensors of two bytes each, at these ranges.
fn two(first: (i64, i64), second: (i64, i64), data: usize) -> Vec<u8> {
    let one = |name, (begin, end)| {
        format!(r#""{name}": {{"dtype":"U8","shape":[2],"data_offsets":[{begin},{end}]}}"#)
    };
    raw_safetensors(format!("{{{}, {}}}", one("a", first), one("b", second)), &vec![0; data])
}

#[test]
fn lies_about_the_length() {
    refused(b"", "the file is too short for a safetensors header", &[("file", "0 bytes")]);
    refused(b"1234567", "the file is too short for a safetensors header", &[("file", "7 bytes")]);
    refused(
        &raw_with_length(0, b"", b""),
        "the safetensors header is empty",
        &[("header", "0 bytes"), ("file", "8 bytes")],
    );
    refused(
        &raw_with_length(100, b"{}", b""),
        "the safetensors header reaches past the end of the file",
        &[("header", "100 bytes"), ("file", "10 bytes")],
    );
    refused(
        &raw_with_length(100_000_001, b"{}", b""),
        "the safetensors header is too large",
        &[("header", "100 000 001 bytes"), ("limit", "100 000 000 bytes")],
    );
    let most = raw_with_length(u64::MAX, b"{}", b"");
    refused(&most, "the safetensors header is too large", &[]);
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "the file is a Git LFS pointer, not the weights",
        &[],
    );
}

#[test]
fn lies_about_the_text() {
    let file = raw_safetensors(b"{\"a\xff\": 1}", b"");
    refused(&file, "the safetensors header is not UTF-8", &[]);
    assert!(matches!(read(&file).unwrap_err()[0].place, Some(Place::Byte(_, 11))));
    let broken = "the safetensors header is not JSON";
    for text in ["{", "[]", "nonsense", "\"text\"", "{\"a\": 1,}", "{\"a\"}", "    "] {
        refused(&raw_safetensors(text, b""), broken, &[]);
    }
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(read(&raw_safetensors(deep, b"")).is_err());
    let file = raw_safetensors("{\n  \"a\": nonsense}", b"");
    let faults = read(&file).unwrap_err();
    assert!(
        matches!(faults[0].place, Some(Place::Byte(_, at)) if (17..=20).contains(&at)),
        "{faults:?}"
    );
    let metadata = r#"{"__metadata__": {"format": 1}}"#;
    refused(&raw_safetensors(metadata, b""), "`__metadata__` is not a map of texts", &[]);
}

#[test]
fn lies_about_one_tensor() {
    let cases = [
        ("1", "`a` has an entry that is not a map"),
        ("{}", "`a` has no `dtype`, or one that is not a text"),
        (
            r#"{"dtype":"U8","data_offsets":[0,2]}"#,
            "`a` has no `shape`, or one that is not a list of counts",
        ),
        (
            r#"{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}"#,
            "`a` has no `shape`, or one that is not a list of counts",
        ),
        (
            r#"{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}"#,
            "`a` has no `shape`, or one that is not a list of counts",
        ),
        (
            r#"{"dtype":"U8","shape":[2],"data_offsets":[-2,0]}"#,
            "`a` has no `data_offsets`, or they are not two byte counts",
        ),
        (
            r#"{"dtype":"U8","shape":[2],"data_offsets":[0,-2]}"#,
            "`a` has no `data_offsets`, or they are not two byte counts",
        ),
        (
            r#"{"dtype":"U8","shape":[2],"data_offsets":[0,2,4]}"#,
            "`a` has no `data_offsets`, or they are not two byte counts",
        ),
        (
            r#"{"dtype":"U8","shape":[2],"data_offsets":[0,18446744073709551616]}"#,
            "`a` has no `data_offsets`, or they are not two byte counts",
        ),
        (
            r#"{"dtype":"U8","dtype":"I8","shape":[2],"data_offsets":[0,2]}"#,
            "`a` has an entry with the same key twice",
        ),
        (r#"{"dtype":"U8","shape":[2],"data_offsets":[2,0]}"#, "`a` ends before it begins"),
        (
            r#"{"dtype":"FLOAT","shape":[2],"data_offsets":[0,2]}"#,
            "`a` has an element type that safetensors does not have",
        ),
        (
            r#"{"dtype":"F4","shape":[4],"data_offsets":[0,2]}"#,
            "`a` has the element type `F4`, which is not read",
        ),
        (
            r#"{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,2]}"#,
            "`a` has a shape whose size does not fit into 64 bits",
        ),
        (
            r#"{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,2]}"#,
            "`a` has a shape whose size does not fit into 64 bits",
        ),
    ];
    for (text, headline) in cases {
        refused(&entry(text, 2), headline, &[]);
    }
    refused(
        &entry(r#"{"dtype":"F16","shape":[3],"data_offsets":[0,2]}"#, 2),
        "`a` has another size than its type and shape say",
        &[("expected", "6 bytes for [3] f16"), ("found", "2 bytes from 0 to 2")],
    );
}

#[test]
fn lies_about_places() {
    assert!(read(&two((0, 2), (2, 4), 4)).is_ok());
    assert!(read(&two((2, 4), (0, 2), 4)).is_ok());
    refused(
        &two((0, 2), (1, 3), 3),
        "`b` overlaps `a`",
        &[("before", "bytes 0 to 2"), ("this", "bytes 1 to 3")],
    );
    refused(&two((0, 2), (0, 2), 2), "`b` overlaps `a`", &[]);
    refused(
        &two((0, 2), (3, 5), 5),
        "`b` begins after a hole that belongs to no tensor",
        &[("hole", "1 byte")],
    );
    refused(
        &two((1, 3), (3, 5), 5),
        "`a` begins after a hole that belongs to no tensor",
        &[("hole", "1 byte")],
    );
    let file = two((0, 2), (2, 4), 5);
    let sound = format!("{} bytes", file.len() - 1);
    refused(&file, "bytes after the last tensor belong to none", &[("header", &sound)]);
    let far = i64::MAX;
    refused(
        &two((0, 2), (far - 2, far), 4),
        "`b` begins after a hole that belongs to no tensor",
        &[],
    );
}

/// The message of a download that was cut off: what is wrong, by how much, and what to do.
#[test]
fn a_truncated_shard_names_the_tensor_it_ends_in() {
    let sound = two((0, 2), (2, 4), 4);
    let (size, header) = (sound.len() as u64, sound.len() - 4);
    for (data, name) in [(0, "a"), (1, "a"), (2, "b"), (3, "b")] {
        let faults = read(&sound[..header + data]).unwrap_err();
        let short = size - (header + data) as u64;
        let unit = if short == 1 { "byte" } else { "bytes" };
        let wanted =
            Diagnostic::error(codes::SHARD_TRUNCATED, format!("the shard ends inside `{name}`"))
                .at_byte("x.safetensors", (header + data) as u64)
                .fact("header", format!("{size} bytes"))
                .fact("file", format!("{} bytes, {short} {unit} short", header + data))
                .help("fetch this shard again");
        assert_eq!(faults, [wanted]);
    }
}

/// serde_json keeps the last of two equal keys and says nothing.
#[test]
fn a_name_that_is_there_twice_is_noticed() {
    let one = r#""a": {"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#;
    let other = r#""a": {"dtype":"U8","shape":[2],"data_offsets":[2,4]}"#;
    let spelled = r#""\u0061": {"dtype":"U8","shape":[2],"data_offsets":[2,4]}"#;
    for second in [one, other, spelled] {
        let file = raw_safetensors(format!("{{{one}, {second}}}"), &[0; 4]);
        refused(&file, "`a` is in the header twice", &[("first", "byte 14")]);
    }
    let twice = r#"{"__metadata__": {}, "__metadata__": {}}"#;
    refused(&raw_safetensors(twice, b""), "`__metadata__` is in the header twice", &[]);
}

#[test]
fn all_faults_of_a_header_are_told_up_to_a_limit() {
    let bad = |name: usize| format!(r#""{name}": {{"dtype":"X","shape":[],"data_offsets":[0,0]}}"#);
    let header = |count: usize| {
        let entries: Vec<String> = (0..count).map(bad).collect();
        raw_safetensors(format!("{{{}}}", entries.join(",")), b"")
    };
    assert_eq!(read(&header(3)).unwrap_err().len(), 3);
    let many = read(&header(1000)).unwrap_err();
    assert_eq!(many.len(), 20);
    assert_eq!(many[19].notes, ["980 more faults in this header are not shown"]);
}

#[test]
fn names_are_escaped_where_they_are_shown() {
    let file = raw_safetensors(r#"{"a\u001b[2J\n": 1}"#, b"");
    refused(&file, "`a\\u{1b}[2J\\n` has an entry that is not a map", &[]);
}

#[test]
fn what_is_unusual_and_allowed_is_read() {
    let header = r#"{"__metadata__": {"format": "pt"}, "empty": {"dtype":"F32","shape":[0,4],
        "data_offsets":[2,2]}, "scalar": {"dtype":"BF16","shape":[],"data_offsets":[0,2]},
        "extra": {"dtype":"U8","shape":[1],"data_offsets":[2,3],"note":"kept out"}}     "#;
    let file = raw_safetensors(header, &[1, 2, 3]);
    let found = read(&file).unwrap();
    assert_eq!(found.metadata["format"], "pt");
    let names: Vec<&str> = found.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["scalar", "empty", "extra"]);
    assert_eq!(found.tensors[2].offset, file.len() as u64 - 1);
    assert!(read(&raw_safetensors("{}", b"")).unwrap().tensors.is_empty());
}

/// A sound file with four tensors.
fn sound() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},
        "c":{"dtype":"I64","shape":[],"data_offsets":[20,28]},
        "d":{"dtype":"U8","shape":[3,0],"data_offsets":[28,28]}}"#;
    raw_safetensors(header, &[7; 28])
}

/// What is accepted must be as true as what a sound file says.
fn check_header(file: &[u8], header: &Header) {
    let mut end = 0;
    for tensor in &header.tensors {
        let tensor_end = tensor.offset.checked_add(tensor.bytes()).unwrap();
        assert!(tensor.offset >= 8 && tensor.offset >= end && tensor_end <= file.len() as u64);
        end = tensor_end;
    }
    let second = safetensors::SafeTensors::deserialize(file).expect("both readers agree");
    assert_eq!(second.len(), header.tensors.len());
    for tensor in &header.tensors {
        let data = second.tensor(&tensor.name).unwrap().data().as_ptr() as usize;
        assert_eq!((data - file.as_ptr() as usize) as u64, tensor.offset);
    }
}

#[test]
fn every_truncation_is_refused() {
    let sound = sound();
    check_header(&sound, &read(&sound).unwrap());
    for end in 0..sound.len() {
        assert!(read(&sound[..end]).is_err(), "cut to {end} bytes");
    }
}

proptest! {
    /// No bent file makes the reader panic or accept a range outside the file.
    #[test]
    fn bent_bits_are_refused_or_harmless(flips in prop::collection::vec((0..400usize, 0..8u8), 1..6)) {
        let mut file = sound();
        for (at, bit) in flips {
            let at = at % file.len();
            file[at] ^= 1 << bit;
        }
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }

    /// Numbers at the edges, in every place that has one.
    #[test]
    fn bent_numbers_are_refused_or_harmless(
        numbers in prop::collection::vec(
            prop_oneof![0..40u64, Just(u64::MAX), Just(u64::MAX / 2), Just(1 << 32), any::<u64>()],
            6,
        ),
    ) {
        let [a, b, c, d, e, f] = numbers[..] else { unreachable!() };
        let header = format!(
            r#"{{"a":{{"dtype":"BF16","shape":[{a},{b}],"data_offsets":[{c},{d}]}},
                "b":{{"dtype":"U8","shape":[2],"data_offsets":[{e},{f}]}}}}"#,
        );
        let file = raw_safetensors(header, &[0; 16]);
        if let Ok(header) = read(&file) {
            check_header(&file, &header);
        }
    }
}
