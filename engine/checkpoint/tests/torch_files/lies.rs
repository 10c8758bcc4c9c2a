//! Files that lie, one lie each.

use super::*;

#[test]
fn lies_about_one_tensor() {
    assert!(read(&one(0, &[2], &[1])).is_ok());
    assert!(read(&one(1, &[1, 1], &[7, 9])).is_ok());
    assert!(read(&one(2, &[0, 5], &[1, 1])).is_ok());
    let past = "`a` reaches past the end of its storage";
    let facts = [("tensor", "8 bytes from 4 to 12"), ("storage", "8 bytes")];
    broken(&one(1, &[2], &[1]), past, &facts);
    broken(&one(3, &[0], &[1]), past, &[]);
    broken(&one(0, &[3], &[1]), past, &[]);
    broken(&one(0, &[1 << 40, 1 << 20], &[1 << 20, 1]), past, &[]);
    broken(
        &one(0, &[1 << 40, 1 << 40], &[1 << 40, 1]),
        "`a` has a shape whose size does not fit into 64 bits",
        &[],
    );
    let far = "`a` has a place that does not fit into 64 bits";
    broken(&one(i64::MAX, &[2], &[1]), far, &[]);
    let wrong = "the pickle cannot be understood: a tensor with arguments that do not fit";
    broken(&one(-1, &[2], &[1]), wrong, &[]);
    broken(&one(0, &[-2], &[1]), wrong, &[]);
    broken(&one(0, &[2], &[-1]), wrong, &[]);
    broken(&one(0, &[2, 1], &[1]), wrong, &[]);
    broken(&one(0, &[1; 65], &[1; 65]), wrong, &[]);
    unread(&one(0, &[2], &[2]), "`a` is not stored row by row", &[("expected", "[1]")]);

    let kind = |kind: &str| with(dict(|p| p.text("a").tensor((kind, "0", 1), 0, &[1], &[1])));
    let headline = "`a` has the element type `complex128`, which is not read";
    unread(&kind("ComplexDoubleStorage"), headline, &[]);
    broken(&kind("UntypedStorage"), wrong, &[]);
    let number = dict(|p| p.int(3).tensor(("FloatStorage", "0", 2), 0, &[2], &[1]));
    unread(&with(number), "the name of a tensor is not a text", &[]);
}

#[test]
fn lies_about_storages() {
    let count = |count: i64| {
        with(dict(|p| p.text("a").tensor(("FloatStorage", "0", count), 0, &[1], &[1])))
    };
    let other = "`model/data/0` has another size than the pickle says";
    broken(&count(1), other, &[("pickle", "4 bytes"), ("entry", "8 bytes")]);
    broken(&count(3), other, &[("pickle", "12 bytes"), ("entry", "8 bytes")]);
    broken(&count(i64::MAX), "`a` has a place that does not fit into 64 bits", &[]);
    let wrong = "the pickle cannot be understood: a reference to something other than a storage";
    broken(&count(-1), wrong, &[]);
    let missing = with(dict(|p| p.text("a").tensor(("FloatStorage", "7", 2), 0, &[2], &[1])));
    broken(&missing, "the archive lacks `model/data/7`, which tensors lie in", &[]);
    let outside = with(dict(|p| p.text("a").tensor(("FloatStorage", "../x", 2), 0, &[2], &[1])));
    broken(&outside, "the archive lacks `model/data/../x`, which tensors lie in", &[]);
    let two = |second: (&str, &str, i64)| {
        with(dict(|p| {
            let first = p.text("a").tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
            first.text("b").tensor(second, 0, &[1], &[1])
        }))
    };
    assert_eq!(read(&two(("FloatStorage", "0", 2))).unwrap().tensors.len(), 2);
    let headline = "the pickle cannot be understood: two descriptions of the storage `0`";
    broken(&two(("FloatStorage", "0", 1)), headline, &[]);
    broken(&two(("IntStorage", "0", 2)), headline, &[]);
    let module = dict(|p| p.text("a").raw(b"(").text("module").raw(b"tQ"));
    broken(&with(module), wrong, &[]);
}

/// A file that names code is refused before anything else is said of it, and nothing of it is run.
#[test]
fn names_of_code_are_refused() {
    let system = |p: Pickle| p.global("os", "system").raw(b"(").text("echo").raw(b"tR");
    let headline = "the file names `os.system`, which is no part of a tensor";
    let tensor = |p: Pickle| p.text("a").tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
    let note = "names in such a file are code that its reader runs; none was run";
    let cases = [
        system(Pickle::new()).stop(),
        dict(|p| system(tensor(p).text("b"))),
        // The name alone, in three spellings, and kept out of the result.
        dict(|p| tensor(p).text("b").global("os", "system")),
        dict(|p| tensor(p.text("os").text("system").raw(b"\x930"))),
        dict(|p| tensor(p.raw(b"(").text("echo").raw(b"ios\nsystem\n0"))),
        // Called by what builds objects and what sets attributes.
        dict(|p| tensor(p).text("b").global("os", "system").raw(b")\x81")),
        dict(|p| tensor(p).text("b").global("os", "system").raw(b")}\x92}b")),
        // What follows is damaged, and the name is the news.
        Pickle::new().global("os", "system").raw(b"\xff").0,
        b"\x80\x02cos\nsystem\n(S'echo'\ntR.".to_vec(),
    ];
    for pickle in cases {
        let fault = unread(&with(pickle), headline, &[]);
        assert_eq!(fault.notes, [note]);
    }
    let several = ["eval", "exec", "eval", "open", "compile", "input"];
    let several = dict(|p| several.iter().fold(p, |p, name| p.text(name).global("builtins", name)));
    unread(
        &with(several),
        "the file names `builtins.eval`, which is no part of a tensor",
        &[("also named", "`builtins.exec`, `builtins.open`, `builtins.compile` and 1 more")],
    );
    let escape = Pickle::new().global("a\u{1b}[2J", "b").stop();
    unread(&with(escape), "the file names `a\\u{1b}[2J.b`, which is no part of a tensor", &[]);
}

#[test]
fn values_that_are_no_tensors_are_left_out_and_named() {
    let file = with(dict(|p| {
        let p = p.text("a").tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
        let p =
            p.text("epoch").int(3).text("args").raw(b"}(").text("lr").raw(b"G\0\0\0\0\0\0\0\0u");
        p.text("size").global("torch", "Size").raw(b"(").ints(&[2]).raw(b"tR")
    }));
    let header = read(&file).unwrap();
    assert_eq!(header.tensors.len(), 1);
    let left = ("not read".to_owned(), "`epoch`, `args`, `size`".to_owned());
    assert_eq!(header.warnings[0].facts, [left]);

    let tensor = |p: Pickle, name| p.text(name).tensor(("FloatStorage", "0", 2), 0, &[2], &[1]);
    let inner = |p: Pickle, key| tensor(p.text(key).raw(b"}("), "a").raw(b"u");
    assert!(read(&with(dict(|p| inner(p, "model")))).unwrap().warnings.is_empty());
    unread(
        &with(dict(|p| inner(inner(p, "model"), "ema"))),
        "several dictionaries of the file hold tensors",
        &[("found", "`model`, `ema`")],
    );
    unread(
        &with(dict(|p| tensor(inner(p, "model"), "b"))),
        "several dictionaries of the file hold tensors",
        &[("found", "`the outermost`, `model`")],
    );
    refused(
        &with(dict(|p| inner(p.text("deeper").raw(b"}("), "model").raw(b"u"))),
        codes::NO_WEIGHTS,
        "the file holds no tensors by name",
        &[("keys", "`deeper`")],
    );
    broken(&with(dict(|p| tensor(tensor(p, "a"), "a"))), "`a` is in the file twice", &[]);
}

#[test]
fn lies_about_instructions() {
    let cases: [(&[u8], &str); 14] = [
        (b".", "a value that is not there"),
        (b"}s.", "a value that is not there"),
        (b"K\x01K\x02\x87.", "a value that is not there"),
        (b"}u.", "a mark that is not there"),
        (b"}(K\x01u.", "a key without a value"),
        // What lies below a mark is out of reach.
        (b"}(0.", "a value that is not there"),
        (b"h\0.", "value 0, which was not kept"),
        (b"j\xff\xff\xff\xff.", "value 4294967295, which was not kept"),
        (b"K\x01)R.", "something is called that is no function"),
        (b"ccollections\nOrderedDict\nK\x01R.", "arguments that are no tuple"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "a call with arguments that do not fit"),
        (b"K\x01K\x02a.", "something is appended to what is no list"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x82\x01.", "an instruction of code 0x82"),
    ];
    for (instructions, what) in cases {
        let headline = format!("the pickle cannot be understood: {what}");
        broken(&with(Pickle::new().raw(instructions).0), &headline, &[]);
    }
    let ends = "the pickle ends before it is complete";
    broken(&with(Pickle::new().raw(b"}").0), ends, &[]);
    broken(&with(vec![]), ends, &[("needed", "1 byte"), ("found", "0 bytes")]);
    let huge: [&[u8]; 4] = [
        b"X\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
    ];
    for bomb in huge {
        broken(&with(Pickle::new().raw(bomb).0), ends, &[]);
    }
    broken(
        &with(Pickle::new().raw(b"X\x01\0\0\0\xff.").0),
        "the pickle cannot be understood: a text that is not UTF-8",
        &[],
    );
    let name = "x".repeat(2000);
    broken(&with(Pickle::new().global(&name, &name).0), "a name in the pickle is too long", &[]);
}

/// Depth costs no stack, numbers in the memo no memory, and cycles no time.
#[test]
fn depth_and_cycles_do_no_harm() {
    let deep = |instruction: &[u8]| instruction.repeat(300_000);
    let ending = "the pickle cannot be understood: a value that is not there";
    broken(&with(Pickle::new().raw(&deep(b"(")).stop()), ending, &[]);
    let nested = [deep(b"]"), deep(b"a")[..299_999].to_vec()].concat();
    let file = with(Pickle::new().raw(&nested).stop());
    let found = [("found", "a list")];
    unread(&file, "the file does not hold a dictionary of tensors", &found);
    let dicts = dict(|p| p.text("a").raw(&deep(b"}X\0\0\0\0")).raw(b"N").raw(&deep(b"s")));
    refused(&with(dicts), codes::NO_WEIGHTS, "the file holds no tensors by name", &[]);
    let tuples = Pickle::new().raw(b")").raw(&deep(b"\x85")).stop();
    unread(&with(tuples), "the file does not hold a dictionary of tensors", &found);
    // A dictionary that holds itself, and a memo entry of the largest number.
    let cycle = Pickle::new().raw(b"}r\xff\xff\xff\xff(").text("a").raw(b"j\xff\xff\xff\xffu");
    refused(&with(cycle.stop()), codes::NO_WEIGHTS, "the file holds no tensors by name", &[]);
}

/// A pickle that only makes values.
#[test]
fn values_are_counted() {
    let pickle = Pickle::new().raw(&b"N0".repeat(10_000_001)).0;
    let headline = "the pickle cannot be understood: more than 10000000 values";
    broken(&with(pickle), headline, &[]);
}

#[test]
fn lies_about_the_archive() {
    let pickle = "model/data.pkl";
    let zero = "model/data/0";
    let file = |zip: Zip| zip.bytes();
    let compressed = sound().change(zero, |entry| entry.method = 8);
    unread(&file(compressed), "`model/data/0` is compressed, which is not read", &[]);
    let encrypted = sound().change(pickle, |entry| entry.flags = 1);
    unread(&file(encrypted), "`model/data.pkl` is encrypted, which is not read", &[]);
    let twice = sound().with(zero, b"other bytes!");
    broken(&file(twice), "the archive holds `model/data/0` twice", &[]);
    let missing = sound().without(zero);
    broken(&file(missing), "the archive lacks `model/data/0`, which tensors lie in", &[]);
    let two = sound().with("other/data.pkl", b"");
    broken(&file(two), "the archive holds several pickles named `data.pkl`", &[]);
    let none = sound().without(pickle);
    unread(&file(none), "the file is a zip archive, but not PyTorch's", &[]);
    unread(&file(Zip::default()), "the file is a zip archive, but not PyTorch's", &[]);
    let big = sound().change("model/byteorder", |entry| {
        entry.data = b"big".to_vec();
        entry.size = 3;
    });
    unread(&file(big), "the file is big-endian, which is not read", &[]);
    let strange = sound().change("model/byteorder", |entry| entry.data = b"middle".to_vec());
    broken(
        &file(strange),
        "the byte order of the file is neither `little` nor `big`",
        &[("found", "`middle`")],
    );

    for size in [1 << 20, 1 << 40, u64::MAX, u64::MAX - 30] {
        let long = sound().change(zero, |entry| entry.size = size);
        let outside = "`model/data/0` lies outside the archive";
        broken(&file(Zip { wide: true, ..long }), outside, &[]);
    }
    for at in [1 << 20, u64::MAX, u64::MAX - 29] {
        let far = sound().change(zero, |entry| entry.header = Some(at));
        let outside = "`model/data/0` lies outside the archive";
        broken(&file(Zip { wide: true, ..far }), outside, &[]);
    }
    let past = sound().without("model/version").change("model/data/2", |entry| entry.size += 1);
    broken(
        &file(past),
        "the archive is damaged: `model/data/2` reaches past the end of the archive's entries",
        &[],
    );
    let elsewhere = sound().change(zero, |entry| entry.header = Some(1));
    broken(
        &file(elsewhere),
        "the archive is damaged: `model/data/0` does not begin where the directory says",
        &[],
    );
    let renamed = sound().change(zero, |entry| entry.local_name = "model/data/9".to_owned());
    broken(&file(renamed), "the archive is damaged: `model/data/0` has two names", &[]);
    let cut = "the file ends before its directory does";
    refused(b"PK\x03\x04", codes::SHARD_TRUNCATED, cut, &[("file", "4 bytes")]);
    let length = "the archive is damaged: its directory has another length than it says";
    let outside = "the archive is damaged: its directory lies outside it";
    let cannot = "the archive is damaged: its directory cannot be read";
    for wide in [false, true] {
        let sound = Zip { wide, ..sound() };
        let bytes = sound.bytes();
        let find =
            |magic: &[u8]| bytes.windows(4).position(|window| window == magic).unwrap() as u64;
        let at = find(b"PK\x01\x02");
        let size = find(if wide { b"PK\x06\x06" } else { b"PK\x05\x06" }) - at;
        let count = sound.entries.len() as u64;
        let told = |told: [u64; 3]| Zip { directory: Some(told), ..sound.clone() }.bytes();
        assert!(read(&told([count, size, at])).is_ok());
        broken(&told([count - 1, size, at]), length, &[]);
        broken(&told([count + 1, size, at]), cannot, &[]);
        broken(&told([60_000, size, at]), length, &[]);
        broken(&told([count, size - 1, at]), cannot, &[]);
        broken(&told([count, size, at + 1]), outside, &[]);
        broken(&told([count, size, at - 1]), cannot, &[]);
        broken(&told([count, 0x7fff_ffff, at]), outside, &[]);
        if wide {
            broken(&told([u64::MAX, size, at]), length, &[]);
            broken(&told([count, u64::MAX, at]), outside, &[]);
            broken(&told([count, size, u64::MAX]), outside, &[]);
        }
    }
}

/// An entry that begins within the bytes of another one.
#[test]
fn entries_cannot_share_bytes() {
    let second = "model/data/1";
    let inner = Zip::default().with(second, &[0; 8]).bytes();
    let bytes = |p: Pickle, key, count: usize| {
        let count = count as i64;
        p.text(key).tensor(("ByteStorage", key, count), 0, &[count], &[1])
    };
    let pickle = dict(|p| bytes(bytes(p, "0", inner.len()), "1", 8));
    let host = torch_archive(&pickle, &[&inner, &[0; 8]]);
    let file = host.bytes();
    assert!(read(&file).is_ok());
    let at = file.windows(inner.len()).position(|window| window == inner).unwrap() as u64;
    let file = host.change(second, |entry| entry.header = Some(at)).bytes();
    broken(&file, "`model/data/1` overlaps another entry", &[("other", "`model/data/0`")]);
}

#[test]
fn lies_about_the_old_form() {
    let (pickle, data) = sound_pickle_and_data();
    let whole: [(&str, u64, &[u8]); 3] =
        [("0", 6, &data[0]), ("1", 2, &data[1]), ("2", 1, &data[2])];
    let count = legacy_torch(&pickle, &[whole[0], ("1", 3, &data[1]), whole[2]]);
    broken(
        &count,
        "the storage `1` has another count than the pickle says",
        &[("pickle", "2"), ("storage", "3")],
    );
    broken(&legacy_torch(&pickle, &whole[..2]), "the file lacks the storage `2`", &[]);
    let more = [whole[0], whole[1], whole[2], ("3", 1, &[0])];
    broken(&legacy_torch(&pickle, &more), "the storage `3` belongs to no tensor", &[]);
    let twice = [whole[0], whole[1], whole[2], whole[0]];
    broken(&legacy_torch(&pickle, &twice), "the file lists the storage `0` twice", &[]);
    let longer = [sound_legacy(), vec![0]].concat();
    broken(&longer, "bytes after the last storage belong to none", &[]);
    let sound = sound_legacy();
    refused(
        &sound[..sound.len() - 1],
        codes::SHARD_TRUNCATED,
        "the file ends inside the storage `2`",
        &[("storage", "8 bytes"), ("file", "15 bytes left")],
    );
    let part = dict(|p| {
        let p = p.text("a").global("torch._utils", "_rebuild_tensor").raw(b"((");
        let p = p.text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(2);
        p.raw(b"(").text("v").int(0).int(2).raw(b"ttQ").int(0).ints(&[2]).ints(&[1]).raw(b"tR")
    });
    let headline = "the file describes a storage as a part of another, which is not read";
    unread(&legacy_torch(&part, &[("0", 2, &[0; 8])]), headline, &[]);
    let find = |text: &[u8]| sound.windows(text.len()).position(|found| found == text).unwrap();
    let mut big = sound.clone();
    big[find(b"little_endian\x88") + 13] = 0x89;
    unread(&big, "the file is big-endian, which is not read", &[]);
    let mut version = sound.clone();
    version[find(b"J\xe9\x03") + 1] = 0;
    let headline = "the file has a version of PyTorch's old format that is not read";
    unread(&version, headline, &[("expected", "1001")]);
}

/// Faults of many tensors are told at once, up to a limit.
#[test]
fn all_tensors_that_are_not_read_are_told_up_to_a_limit() {
    let turned = |count: usize| {
        with(dict(|p| {
            (0..count).fold(p, |p, number| {
                p.text(&number.to_string()).tensor(("FloatStorage", "0", 2), 0, &[2], &[0])
            })
        }))
    };
    assert_eq!(read(&turned(3)).unwrap_err().len(), 3);
    let many = read(&turned(1000)).unwrap_err();
    assert_eq!(many.len(), 20);
    assert_eq!(many[19].notes, ["980 more faults of this file are not shown"]);
}
