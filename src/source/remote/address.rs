//! Addresses: how models that are not on this machine are named, and the secrets in them.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use reqwest::Url;

use crate::base::threads::lock;
use crate::base::{Error, Result};

/// An address in its canonical form: a store, and a file or folder in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) scheme: Scheme,
    /// The store: `hf://ORG/NAME@REVISION`, `s3://BUCKET`, `https://HOST`.
    pub(super) root: String,
    /// The path in the store, without leading and trailing slashes; empty for the whole store.
    pub(super) key: String,
}

/// The kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Web,
    Hub,
    S3,
    Gcs,
    Azure,
}

/// Scheme prefixes, each with the number of path segments that name the store.
const SCHEMES: [(&str, Scheme, usize); 6] = [
    ("https://", Scheme::Web, 1),
    ("http://", Scheme::Web, 1),
    ("hf://", Scheme::Hub, 2),
    ("s3://", Scheme::S3, 1),
    ("gs://", Scheme::Gcs, 1),
    ("az://", Scheme::Azure, 1),
];

/// File name endings for which no listing is fetched to tell whether they name a file or a folder.
const FILE_ENDINGS: [&str; 9] = [".safetensors", ".gguf", ".json", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".npy"];

/// Whether the file name has the ending of a model file.
pub(super) fn is_file_name(key: &str) -> bool {
    FILE_ENDINGS.iter().any(|ending| key.ends_with(ending))
}

impl Address {
    /// Parses an address in canonical form; `None` if the path is not one.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let text = path.to_str()?;
        let (prefix, scheme, segments) = SCHEMES.into_iter().find(|(prefix, ..)| text.starts_with(prefix))?;
        let rest = text.get(prefix.len()..)?;
        let end = rest.match_indices('/').nth(segments - 1).map_or(rest.len(), |(at, _)| at);
        let (root, key) = rest.split_at_checked(end)?;
        Some(Self { scheme, root: format!("{prefix}{root}"), key: key.trim_matches('/').to_owned() })
    }

    /// Returns the path of a file or folder of the same store.
    pub(super) fn path_of(&self, key: &str) -> PathBuf {
        PathBuf::from(format!("{}/{key}", self.root))
    }
}

/// URLs with credentials or a query, by the path shown in their place.
static CONCEALED: LazyLock<Mutex<HashMap<String, Url>>> = LazyLock::new(Mutex::default);

/// Returns the URL to request for a web address.
pub(super) fn url_of(address: &Address) -> Result<Url> {
    let text = format!("{}/{}", address.root, address.key);
    if let Some(url) = lock(&CONCEALED).get(&text) {
        return Ok(url.clone());
    }
    Url::parse(&text).map_err(|error| Error::argument(format!("expected a URL, found another text: {error}")).in_file(Path::new(&text)))
}

/// Returns an address as it is shown in messages and reports, without credentials and without the query of a URL, which may be a signature.
/// The full URL is kept for requests. Any other text is returned unchanged.
pub fn conceal(text: &str) -> Option<String> {
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return None;
    }
    let full = Url::parse(text).ok()?;
    let mut shown = full.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Neither fails for http and https.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    if full.query().is_none() && full.username().is_empty() && full.password().is_none() {
        return None;
    }
    let plain = shown.to_string();
    let mut concealed = lock(&CONCEALED);
    let names = std::iter::once(plain.clone()).chain((2..).map(|number| format!("{plain}?{number}")));
    for name in names {
        match concealed.get(&name) {
            Some(other) if *other != full => {}
            _ => {
                concealed.insert(name.clone(), full);
                return Some(name);
            }
        }
    }
    None
}

/// Whether a path in a store is relative and has no `..`.
pub(super) fn is_plain(key: &str) -> bool {
    !key.contains(['\0', '\\']) && !key.is_empty() && Path::new(key).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Decodes `%XX` in a part of a URL.
pub(super) fn decode_percent(part: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |index: usize| char::from(*after.get(index)?).to_digit(16);
        let code = digit(0).zip(digit(1)).map(|(high, low)| (high * 16 + low) as u8).filter(|_| first == b'%');
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_and_a_path_in_it_are_told_apart() {
        let parts = |text: &str| Address::parse(Path::new(text)).map(|address| (address.root, address.key));
        let of = |root: &str, key: &str| Some((root.to_owned(), key.to_owned()));
        assert_eq!(parts("hf://org/name@main/a/b.gguf"), of("hf://org/name@main", "a/b.gguf"));
        assert_eq!(parts("hf://org/name"), of("hf://org/name", ""));
        assert_eq!(parts("s3://bucket/a/b/"), of("s3://bucket", "a/b"));
        assert_eq!(parts("https://host:1/x"), of("https://host:1", "x"));
        assert_eq!(parts("/a/hf://x"), None);
        assert_eq!(parts("model.gguf"), None);
    }

    #[test]
    fn credentials_and_queries_are_not_shown_but_requested() {
        let text = "https://user:secret@host.example/m.gguf?X-Amz-Signature=abc";
        let shown = conceal(text).unwrap();
        assert_eq!(shown, "https://host.example/m.gguf");
        assert_eq!(url_of(&Address::parse(Path::new(&shown)).unwrap()).unwrap().as_str(), text);
        let other = conceal("https://host.example/m.gguf?v=2").unwrap();
        assert_eq!(other, "https://host.example/m.gguf?2");
        assert_eq!(url_of(&Address::parse(Path::new(&other)).unwrap()).unwrap().query(), Some("v=2"));
        assert_eq!((conceal(text).unwrap(), conceal("https://host.example/m.gguf")), (shown, None));
    }
}
