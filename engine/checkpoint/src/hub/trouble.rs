//! What can go wrong between here and the hub, and how it is said.

use std::io;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use super::HubOptions;
use super::options::without_credentials;
use crate::shown::{bytes_text, io_text, shown, shown_path};

/// Why something could not be fetched.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The hub answered, with a refusal and its own name for the reason.
    Refused { status: u16, reason: String },
    /// No connection, or one that broke.
    Network(String),
    /// Nothing came for as long as patience lasts.
    Silence,
    /// The answer makes no sense.
    Confused(String),
    /// What arrived is not what was announced.
    Damaged { found: String, expected: String },
    /// A file of the cache cannot be written.
    Disk(io::Error),
    /// Another process is fetching the same file.
    Busy,
    /// The user wants no more.
    Cancelled,
}

impl Trouble {
    /// Whether the same request may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::Network(_) | Self::Busy => true,
            _ => false,
        }
    }
}

impl Trouble {
    /// Whether nobody answered, or somebody who cannot for the moment.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500,
            Self::Network(_) | Self::Silence => true,
            _ => false,
        }
    }

    /// In a few words.
    pub fn in_words(&self) -> String {
        match self {
            Self::Refused { status, reason } if reason.is_empty() => format!("status {status}"),
            Self::Refused { status, reason } => format!("{}, status {status}", shown(reason)),
            Self::Network(what) | Self::Confused(what) => without_credentials(what),
            Self::Silence => "nothing was sent".to_owned(),
            Self::Damaged { .. } => "a file arrived damaged".to_owned(),
            Self::Disk(error) => io_text(error),
            Self::Busy => "another process is at it".to_owned(),
            Self::Cancelled => "it was interrupted".to_owned(),
        }
    }
}

impl From<io::Error> for Trouble {
    /// An error of writing to the disk, or of reading from a connection: the crate that copies from
    /// one to the other does not tell which.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            FileTooLarge, IsADirectory, NotADirectory, PermissionDenied, QuotaExceeded,
            ReadOnlyFilesystem, StorageFull,
        };
        match error.kind() {
            FileTooLarge | IsADirectory | NotADirectory | PermissionDenied | QuotaExceeded
            | ReadOnlyFilesystem | StorageFull => Self::Disk(error),
            _ => Self::Network(io_text(&error)),
        }
    }
}

impl From<ureq::Error> for Trouble {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::StatusCode(status) => Self::Refused { status, reason: String::new() },
            ureq::Error::Io(error) => error.into(),
            ureq::Error::Timeout(_) => Self::Silence,
            ureq::Error::BodyExceedsLimit(bytes) => {
                Self::Confused(format!("more than {}", bytes_text(bytes)))
            }
            other => Self::Network(other.to_string()),
        }
    }
}

/// What was being fetched.
pub(super) struct Asked<'a> {
    pub id: &'a str,
    pub revision: &'a str,
    /// A file, or the list of files.
    pub file: Option<&'a str>,
    pub options: &'a HubOptions,
}

impl Asked<'_> {
    /// Who is asked, and the variable that says where that is, if there is one.
    fn whom(&self) -> (&'static str, Option<&'static str>) {
        if super::is_store(self.id) {
            let variable = match self.id.starts_with("s3://") {
                true => Some("AWS_ENDPOINT_URL"),
                false => None,
            };
            return ("store", variable);
        }
        match ["http://", "https://"].iter().any(|scheme| self.id.starts_with(scheme)) {
            true => ("server", None),
            false => ("hub", Some("HF_ENDPOINT")),
        }
    }

    /// The message for the user.
    pub fn diagnostic(&self, trouble: &Trouble) -> Box<Diagnostic> {
        let (whom, variable) = self.whom();
        let failed = |what: &str| {
            let headline = format!("`{}` could not be fetched: {what}", shown(self.id));
            let diagnostic = Diagnostic::error(codes::HUB_FAILED, headline);
            let diagnostic = diagnostic.fact(whom, self.options.shown_endpoint());
            match self.file {
                Some(file) => diagnostic.fact("file", format!("`{}`", shown(file))),
                None => diagnostic,
            }
        };
        let again = "run the same command again; it continues where this one stopped";
        Box::new(match trouble {
            Trouble::Refused { status, reason } => self.refused(*status, reason),
            Trouble::Network(what) => {
                let mut help = match variable {
                    Some(variable) => format!("check the network, {variable} and HTTPS_PROXY"),
                    None => "check the address, the network and HTTPS_PROXY".to_owned(),
                };
                help += ", and run the same command again";
                if whom == "hub" {
                    help += "; HF_HUB_OFFLINE=1 uses only what is cached";
                }
                failed(&format!("the {whom} cannot be reached"))
                    .fact("network", without_credentials(what))
                    .help(help)
            }
            Trouble::Silence => failed(&format!("the {whom} sends nothing"))
                .fact("waited", format!("{} s", self.options.patience.as_secs()))
                .help(again),
            Trouble::Confused(what) => failed(&format!("the {whom}'s answer cannot be understood"))
                .fact("answer", without_credentials(what))
                .help(match variable {
                    Some(variable) => format!("check that {variable} is the address of a {whom}"),
                    None => "check the address".to_owned(),
                }),
            Trouble::Damaged { found, expected } => failed("a file arrived damaged")
                .fact("expected", shown(expected))
                .fact("found", shown(found))
                .help("run the same command again; the file is fetched anew"),
            Trouble::Disk(error) => self.disk(error),
            Trouble::Busy => failed("another process is fetching it, and does not go on")
                .help("wait for that process or end it, and run the same command again"),
            Trouble::Cancelled => failed("it was interrupted").help(again),
        })
    }

    /// What a store answers, and as whom it was asked.
    fn refused_by_store(&self, status: u16, reason: &str) -> Diagnostic {
        let (id, endpoint) = (shown(self.id), self.options.shown_endpoint());
        let answer = match reason {
            "" => format!("status {status} from {endpoint}"),
            reason => format!("{}, status {status} from {endpoint}", shown(reason)),
        };
        let with = |code, headline: String| {
            let diagnostic = Diagnostic::error(code, headline).fact("store", &answer);
            let diagnostic = match self.file {
                Some(file) => diagnostic.fact("file", format!("`{}`", shown(file))),
                None => diagnostic,
            };
            diagnostic.fact("asked as", self.options.stores.who(self.id))
        };
        match status {
            404 => with(codes::MODEL_NOT_FOUND, format!("there is no model `{id}`"))
                .help("check the bucket, and the folder within it"),
            200 => with(codes::REMOTE_RANGES, "a server does not give parts of its files".to_owned())
                .help("download the model and name its folder"),
            301 | 307 | 400 => with(codes::STORE_REFUSED, format!("the store refuses `{id}`"))
                .help("check the bucket's region, for S3 in AWS_REGION"),
            401 | 403 => with(codes::STORE_REFUSED, format!("the store does not give `{id}`")).help(
                "give credentials that may read it in the variables of the store's own tools, such as \
                 AWS_ACCESS_KEY_ID, GOOGLE_OAUTH_ACCESS_TOKEN or AZURE_STORAGE_ACCOUNT_KEY",
            ),
            _ => with(codes::STORE_REFUSED, format!("the store refuses `{id}`"))
                .help("run the same command again later"),
        }
    }

    fn refused(&self, status: u16, reason: &str) -> Diagnostic {
        if super::is_store(self.id) {
            return self.refused_by_store(status, reason);
        }
        let (id, endpoint) = (shown(self.id), self.options.shown_endpoint());
        let with = |code, headline: String| {
            let answer = match reason {
                "" => format!("status {status} from {endpoint}"),
                reason => format!("{}, status {status} from {endpoint}", shown(reason)),
            };
            Diagnostic::error(code, headline).fact("hub", answer)
        };
        let has_token = self.options.token.is_some();
        match (status, reason) {
            // It was asked for a part.
            (200, _) => {
                let headline = "a server does not give parts of its files".to_owned();
                with(codes::REMOTE_RANGES, headline).help("download the model and name its folder")
            }
            (404, "RevisionNotFound") => {
                let revision = shown(self.revision);
                with(codes::MODEL_NOT_FOUND, format!("`{id}` has no revision `{revision}`"))
                    .help(format!("its revisions are listed at {endpoint}/{id}/tree/main"))
            }
            (404, _) if self.file.is_some() => {
                let file = shown(self.file.unwrap_or_default());
                with(codes::HUB_FAILED, format!("`{id}` has no file `{file}` at the hub"))
            }
            (404, _) => with(codes::MODEL_NOT_FOUND, format!("there is no model `{id}`"))
                .fact("here", "no file or folder of that name"),
            (403, _) | (401, "GatedRepo") if has_token => {
                with(codes::HUB_FAILED, format!("the hub does not give `{id}` to this HF_TOKEN"))
                    .help(format!("ask for access at {endpoint}/{id}"))
            }
            (401, _) if has_token => {
                with(codes::HUB_FAILED, format!("the hub refuses HF_TOKEN, or has no `{id}`"))
                    .help("check the name, and make a new token if this one has expired")
            }
            (401 | 403, _) => {
                let headline = format!("`{id}` is gated or private, or does not exist");
                with(codes::HUB_FAILED, headline).help(
                    "check the name; for a gated or private model set HF_TOKEN to a token of \
                     an account that has access",
                )
            }
            (429, _) => with(codes::HUB_FAILED, "the hub was asked too often".to_owned())
                .help("wait some minutes, or set HF_TOKEN"),
            _ => with(codes::HUB_FAILED, format!("the hub refuses `{id}`"))
                .help("run the same command again later"),
        }
    }

    fn disk(&self, error: &io::Error) -> Diagnostic {
        let cache = shown_path(&self.options.cache);
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Diagnostic::error(
                codes::DISK_FULL,
                "there is no space left for the hub's cache",
            )
            .in_file(&cache)
            .fact("system", io_text(error))
            .help("free some space, or name another folder in HF_HUB_CACHE");
        }
        Diagnostic::error(codes::WRITE_FAILED, "the hub's cache cannot be written")
            .in_file(&cache)
            .fact("system", io_text(error))
            .help("name a folder of your own in HF_HUB_CACHE")
    }
}

/// A file of another size than the hub announced.
pub(super) fn wrong_size(path: &Path, expected: u64) -> Option<Trouble> {
    let found = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let damaged = || Trouble::Damaged { found: bytes_text(found), expected: bytes_text(expected) };
    (found != expected).then(damaged)
}
