use std::io::Write;
use std::path::PathBuf;

use zip::write::SimpleFileOptions;

use super::*;

/// The five rows of `tests/tables/make.py`.
const ROWS: [(&str, &str); 5] =
    [("7", "Yes"), ("8", "No, no\n<b> & c"), ("9", ""), ("10", "=1+1"), ("11", "日本 Ω 7")];

fn written(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tables").join(name)
}

#[test]
fn tables_of_pandas_are_read() {
    for name in ["openpyxl.xlsx", "xlsxwriter.xlsx"] {
        let found = pairs(&written(name)).unwrap();
        let found: Vec<(&str, &str)> =
            found.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        assert_eq!(found, ROWS, "{name}");
    }
}

/// Writes an archive of these parts in a folder that is removed with the returned handle.
fn archive(parts: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.1.xlsx");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in parts {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    (folder, path)
}

const LINKS: &str =
    r#"<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">"#;
const OFFICE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";

/// What a workbook of one sheet with these cells and strings answers.
#[track_caller]
fn read(cells: &str, strings: &str) -> super::super::Pairs {
    let root = format!(
        r#"{LINKS}<Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>"#
    );
    let links = format!(
        r#"{LINKS}<Relationship Id="r1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>"#
    );
    let book = format!(
        r#"<workbook xmlns:r="{OFFICE}"><sheets><sheet name="Answers" sheetId="1" r:id="r1"/></sheets></workbook>"#
    );
    let sheet = format!("<worksheet><sheetData>{cells}</sheetData></worksheet>");
    let strings = format!("<sst {strings}</sst>");
    let (_folder, path) = archive(&[
        ("_rels/.rels", root.as_bytes()),
        ("xl/workbook.xml", book.as_bytes()),
        ("xl/_rels/workbook.xml.rels", links.as_bytes()),
        ("xl/worksheets/sheet1.xml", sheet.as_bytes()),
        ("xl/sharedStrings.xml", strings.as_bytes()),
    ]);
    pairs(&path)
}

const NAMES: &str = r#"<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>"#;
const STRINGS: &str = r#"uniqueCount="2"><si><t>index</t></si><si><t>prediction</t></si>"#;

#[test]
fn what_is_wrong_with_a_table_is_told() {
    let cell = |place: &str, number: &str| format!(r#"<c r="{place}"><v>{number}</v></c>"#);
    let row = |number: u32, cells: &str| format!(r#"<row r="{number}">{cells}</row>"#);
    let two = row(2, &(cell("A2", "1e3") + &cell("B2", "0.5")));
    let found = read(&(NAMES.to_owned() + &two), STRINGS).unwrap();
    assert_eq!(found, [("1000".to_owned(), "0.5".to_owned())]);
    let check = |cells: &str, strings: &str, words: &str| {
        let found = read(cells, strings).unwrap_err();
        assert!(found.contains(words), "{found}");
    };
    check("", STRINGS, "the sheet `Answers` has no column `prediction`");
    check(&(NAMES.to_owned() + &row(3, &cell("B3", "1"))), STRINGS, "row 3 has no `index`");
    let back = row(5, &cell("B5", "1")) + &row(4, &cell("B4", "1"));
    check(&(NAMES.to_owned() + &back), STRINGS, "row 4 stands below row 5");
    let string = r#"<row r="2"><c r="B2" t="s"><v>9</v></c></row>"#;
    check(&(NAMES.to_owned() + string), STRINGS, "damaged");
    // Such letters and digits wrap where they are summed unchecked.
    for place in ["ZZZZZZZZZZZZ9", "B1048577", "XFE2"] {
        let far = row(2, &cell(place, "9"));
        check(&(NAMES.to_owned() + &far), STRINGS, "damaged");
    }
    check(NAMES, "uniqueCount=\"2\"><si><t>", "damaged");
}

#[test]
fn what_a_workbook_claims_takes_no_memory() {
    for count in ["18446744073709551615", "99999999999999999999999", "9999999"] {
        let strings = STRINGS.replace("\"2\"", &format!("\"{count}\""));
        let found = read(NAMES, &strings).unwrap_err();
        assert!(found.contains("strings in"), "{found}");
    }
    // A hundred kilobytes that unpack to what no table needs.
    let zeros = vec![b' '; MOST_OTHERS as usize + 1];
    for name in ["xl/styles.xml", "xl/workbook.xml", "_rels/.rels"] {
        let (_folder, path) = archive(&[(name, &zeros)]);
        let found = pairs(&path).unwrap_err();
        assert!(found.contains("unpacks to more than 4 MiB"), "{found}");
    }
    // One long string in many cells.
    let mut table = Table::default();
    table.add(0, 0, &DataRef::SharedString("prediction")).unwrap();
    let long = "x".repeat(1 << 20);
    let found = (1..).find_map(|row| table.add(row, 0, &DataRef::SharedString(&long)).err());
    assert!(found.unwrap().contains("256 MiB"));
    assert!(table.rows.len() <= 257);
}

#[test]
fn what_is_no_workbook_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.1.xlsx");
    let check = |bytes: &[u8], words: &str| {
        std::fs::write(&path, bytes).unwrap();
        let found = pairs(&path).unwrap_err();
        assert!(found.contains(words), "{found}");
    };
    check(b"", "no workbook");
    check(b"index,prediction\n1,a\n", "no workbook");
    check(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "password");
    check(b"PK\x03\x04", "damaged");
    std::fs::remove_file(&path).unwrap();
    assert!(pairs(&path).unwrap_err().contains("cannot be read"));
}

/// Nothing that is cut or has a wrong byte is a panic, and nothing that is cut is an answer.
#[test]
fn damaged_workbooks_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.1.xlsx");
    for name in ["openpyxl.xlsx", "xlsxwriter.xlsx"] {
        let bytes = std::fs::read(written(name)).unwrap();
        for end in (0..bytes.len()).step_by(97) {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(pairs(&path).is_err(), "{name} cut at {end}");
        }
        for at in (0..bytes.len()).step_by(11) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << (at % 8);
            std::fs::write(&path, &wrong).unwrap();
            // The sums of zip archives are looked at, so that what is read is what was written.
            if let Ok(found) = pairs(&path) {
                let found: Vec<(&str, &str)> =
                    found.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
                assert_eq!(found, ROWS, "{name} with another byte at {at}");
            }
        }
    }
}
