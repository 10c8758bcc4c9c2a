//! Objects that are sent in parts, in any order, and appear when all of them are joined: multipart uploads of
//! S3 and of Google's XML protocol, block lists of Azure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::objects::{Asked, Objects};
use super::{Kind, hex, xml};
use crate::hub::trouble::Trouble;

impl Objects {
    /// Begins an object, and gives the name of what is begun.
    pub fn begin(&self, name: &str) -> Result<String, Trouble> {
        if self.kind == Kind::Azure {
            // Azure keeps blocks under the object's name; those of one run begin alike.
            let mut bytes = [0; 12];
            File::open("/dev/urandom")
                .and_then(|mut file| file.read_exact(&mut bytes))
                .map_err(Trouble::Disk)?;
            return Ok(hex(&bytes));
        }
        let query = [("uploads", "")];
        let asked = Asked { method: "POST", name: Some(name), query: &query, ..Asked::default() };
        let answer = self.ask(asked)?;
        xml::text_of(&answer.body, "UploadId")
            .filter(|id| !id.is_empty() && !id.contains(char::is_whitespace))
            .ok_or_else(|| Trouble::Confused("an upload without a name".to_owned()))
    }

    /// Sends a part, counted from 1, and gives what the store calls its content.
    pub fn part(
        &self,
        name: &str,
        upload: &str,
        number: usize,
        body: &[u8],
    ) -> Result<String, Trouble> {
        let number_text = number.to_string();
        if self.kind == Kind::Azure {
            let id = block(upload, number);
            let query = [("blockid", id.as_str()), ("comp", "block")];
            let headers = [("content-type", "application/octet-stream")];
            let asked =
                Asked { method: "PUT", name: Some(name), query: &query, headers: &headers, body };
            return self.ask(asked).map(|_| "-".to_owned());
        }
        let query = [("partNumber", number_text.as_str()), ("uploadId", upload)];
        let asked =
            Asked { method: "PUT", name: Some(name), query: &query, body, ..Asked::default() };
        let answer = self.ask(asked)?;
        let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
        let etag = etag.map(|etag| etag.replace('"', ""));
        etag.filter(|etag| !etag.is_empty() && !etag.contains(char::is_whitespace))
            .ok_or_else(|| Trouble::Confused("a part without an etag".to_owned()))
    }

    /// The parts that the store has of an upload, by number; none where the upload is no more.
    pub fn parts(
        &self,
        name: &str,
        upload: &str,
    ) -> Result<Option<BTreeMap<usize, String>>, Trouble> {
        let mut found = BTreeMap::new();
        if self.kind == Kind::Azure {
            let query = [("blocklisttype", "uncommitted"), ("comp", "blocklist")];
            let asked =
                Asked { method: "GET", name: Some(name), query: &query, ..Asked::default() };
            let answer = match self.ask(asked) {
                Err(Trouble::Refused { status: 404, .. }) => return Ok(None),
                answer => answer?,
            };
            for block in xml::all(&answer.body, "Block") {
                let id =
                    xml::text_of(block, "Name").and_then(|name| STANDARD.decode(name.trim()).ok());
                let id = id.and_then(|id| String::from_utf8(id).ok()).unwrap_or_default();
                let number = id.strip_prefix(upload).and_then(|number| number.parse().ok());
                found.extend(number.map(|number| (number, "-".to_owned())));
            }
            return Ok(Some(found));
        }
        let mut marker = String::new();
        loop {
            let mut query = vec![("uploadId", upload)];
            if !marker.is_empty() {
                query.insert(0, ("part-number-marker", &marker));
            }
            let asked =
                Asked { method: "GET", name: Some(name), query: &query, ..Asked::default() };
            let answer = match self.ask(asked) {
                Err(Trouble::Refused { status: 404, .. }) => return Ok(None),
                answer => answer?,
            };
            for part in xml::all(&answer.body, "Part") {
                let number = xml::text_of(part, "PartNumber").and_then(|text| text.parse().ok());
                let etag = xml::text_of(part, "ETag").map(|etag| etag.replace('"', ""));
                found.extend(number.zip(etag));
            }
            let goes_on = xml::text_of(&answer.body, "IsTruncated").as_deref() == Some("true");
            let next = xml::text_of(&answer.body, "NextPartNumberMarker").unwrap_or_default();
            if !goes_on || next.is_empty() || next == marker {
                return Ok(Some(found));
            }
            marker = next;
        }
    }

    /// Joins the parts: the object, of so many bytes, is there from now on.
    pub fn join(
        &self,
        name: &str,
        upload: &str,
        parts: &[String],
        bytes: u64,
    ) -> Result<(), Trouble> {
        let numbered = parts.iter().enumerate().map(|(at, etag)| (at + 1, etag));
        let body: String = match self.kind {
            Kind::Azure => {
                let ids = numbered.map(|(number, _)| block(upload, number));
                let lines: String =
                    ids.map(|id| format!("<Uncommitted>{id}</Uncommitted>")).collect();
                format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{lines}</BlockList>")
            }
            _ => {
                let lines: String = numbered
                    .map(|(number, etag)| {
                        let etag = xml::escaped(&format!("\"{etag}\""));
                        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
                    })
                    .collect();
                format!("<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>")
            }
        };
        let (name_of, body) = (Some(name), body.as_bytes());
        let query = [("uploadId", upload)];
        let asked = match self.kind {
            Kind::Azure => Asked {
                method: "PUT",
                name: name_of,
                query: &[("comp", "blocklist")],
                headers: &[("content-type", "application/xml")],
                body,
            },
            _ => Asked { method: "POST", name: name_of, query: &query, headers: &[], body },
        };
        let before = self.state(name)?;
        let trouble = match self.ask(asked) {
            // S3 answers before it has done it, and then says in the text what went wrong.
            Ok(answer) if answer.body.contains("<Error>") => Trouble::Refused {
                status: 500,
                reason: xml::text_of(&answer.body, "Code").unwrap_or_default(),
            },
            Ok(_) => return Ok(()),
            Err(trouble) => trouble,
        };
        // An answer may be lost on its way back, and then the parts are joined already.
        match self.state(name) {
            Ok(Some(found)) if found.0 == bytes && Some(&found) != before.as_ref() => Ok(()),
            _ => Err(trouble),
        }
    }

    /// Gives up an upload, and what is sent of it.
    pub fn abort(&self, name: &str, upload: &str) -> Result<(), Trouble> {
        if self.kind == Kind::Azure {
            // Blocks that no list names go after a week.
            return Ok(());
        }
        let query = [("uploadId", upload)];
        let asked = Asked { method: "DELETE", name: Some(name), query: &query, ..Asked::default() };
        match self.ask(asked) {
            Ok(_) | Err(Trouble::Refused { status: 404, .. }) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }
}

/// The name of a block; those of one object must be of one length.
fn block(upload: &str, number: usize) -> String {
    STANDARD.encode(format!("{upload}{number:05}"))
}
