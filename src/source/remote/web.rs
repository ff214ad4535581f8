//! Files of a web server, which has no list of them.

use std::path::Path;

use base64::Engine as _;
use reqwest::header::HeaderValue;

use crate::base::{Error, Result};
use crate::source::remote::address::{Address, decode_percent, url_of};
use crate::source::remote::http::Request;

/// File names that are looked for where a server does not list the files of a folder.
pub(super) const NAMES: [&str; 14] = [
    "model.safetensors.index.json",
    "model.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// A web server.
#[derive(Debug)]
pub(super) struct Web;

impl Web {
    /// Returns the request for a file.
    pub(super) fn request(&self, path: &Path) -> Result<Request> {
        let address = Address::parse(path).ok_or_else(|| Error::argument("expected a URL").in_file(path))?;
        let mut url = url_of(&address)?;
        let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let text = format!("{}:{}", decode_percent(url.username()), decode_percent(url.password().unwrap_or_default()));
            let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
            let mut value = HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("Basic"));
            value.set_sensitive(true);
            value
        });
        // Neither fails for http and https.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Request { url, authorization, range: None, unless: None, name: path.to_path_buf(), hub: false, later: false })
    }
}
