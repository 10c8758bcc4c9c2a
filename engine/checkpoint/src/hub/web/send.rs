//! Requests that carry something: to the hub with the user's token, to other places without it.

use std::io::Read;
use std::time::Duration;

use ureq::SendBody;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, USER_AGENT};
use ureq::http::{Request, Uri};

use super::{Origin, Token, Web, text_of};
use crate::hub::trouble::Trouble;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Verb {
    /// Says something; the user's token goes along to the hub.
    Post,
    /// Stores something at an address that was given for it.
    Put,
}

/// A request that carries something.
pub(in crate::hub) struct Sent<'a> {
    pub verb: Verb,
    pub address: &'a str,
    /// Headers that somebody asked for by name.
    pub headers: &'a [(String, String)],
    pub kind: &'a str,
    /// What is carried, and its bytes.
    pub body: &'a mut dyn Read,
    pub bytes: u64,
    /// How long the whole may take.
    pub patience: Duration,
}

/// What came back.
pub(in crate::hub) struct Received {
    pub etag: Option<String>,
    pub text: String,
}

impl Web {
    /// Whether the user's token is for this address.
    fn is_home(&self, address: &str) -> bool {
        let uri = address.parse::<Uri>().ok();
        uri.and_then(|uri| Origin::of(&uri)).is_some_and(|origin| origin == self.origin)
    }

    /// The address of something at the hub, from its first slash on.
    pub fn address_of(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Sends. An answer that leads elsewhere is a refusal: what is sent goes where it was meant to go.
    ///
    /// **Errors.** Every answer but success.
    pub fn send(&self, sent: Sent<'_>) -> Result<Received, Trouble> {
        let method = match sent.verb {
            Verb::Post => "POST",
            Verb::Put => "PUT",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(sent.address)
            .header(USER_AGENT, concat!("mixdown/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, sent.kind)
            .header(CONTENT_LENGTH, sent.bytes);
        for (name, value) in sent.headers {
            request = request.header(name, value);
        }
        // Addresses of a store say themselves who may write there.
        let wants_token = sent.verb == Verb::Post
            && !sent.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let is_told = wants_token && self.is_home(sent.address);
        if let Some(Token(token)) = self.token.as_ref().filter(|_| is_told) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(SendBody::from_reader(sent.body));
        let request = request.map_err(|error| Trouble::Confused(error.to_string()))?;
        let request = self.agent.configure_request(request).timeout_global(Some(sent.patience));
        let response = self.agent.run(request.build())?;
        let status = response.status().as_u16();
        let etag = text_of(response.headers(), ETAG.as_str());
        let code = text_of(response.headers(), "x-error-code");
        // Answers of the hub name files and addresses, a few hundred bytes each.
        const LONGEST: u64 = 64 << 20;
        let text = response.into_body().with_config().limit(LONGEST).read_to_string();
        if !(200..=299).contains(&status) {
            let text = text.unwrap_or_default();
            let of_body = serde_json::from_str::<serde_json::Value>(&text).ok();
            let of_body = of_body.and_then(|value| Some(value["error"].as_str()?.to_owned()));
            let reason = of_body.or(code).unwrap_or_default();
            return Err(Trouble::Refused { status, reason: reason.chars().take(500).collect() });
        }
        Ok(Received { etag, text: text? })
    }
}
