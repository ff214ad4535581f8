//! Models on the Hugging Face Hub: addresses, the token, the listing, and the local cache of `huggingface_hub`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::base::threads::lock;
use crate::base::{Error, Hint, Result, json, limits};
use crate::source::remote::address::{Address, decode_percent, is_file_name, is_plain};
use crate::source::remote::http::{self, Identity, Request, io};
use crate::source::remote::runtime::{variable, wait};

/// The revision of a model whose address names none.
const MAIN: &str = "main";

/// A model on the Hub, at one revision.
#[derive(Debug)]
pub(super) struct Hub {
    /// `ORG/NAME`.
    name: String,
    revision: String,
    /// The commit that the revision is at, once an answer has named it: later requests name it too, so that all files are of one commit.
    commit: Mutex<Option<String>>,
    listing: OnceLock<Result<BTreeMap<String, Identity>>>,
}

impl Hub {
    /// Returns the model of an address without its path: `hf://ORG/NAME@REVISION`.
    pub(super) fn new(root: &str) -> Self {
        let rest = root.strip_prefix("hf://").unwrap_or(root);
        let (name, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let revision = revision.replace("%2F", "/");
        Self { name: name.to_owned(), revision, commit: Mutex::new(None), listing: OnceLock::new() }
    }

    /// Returns the request for a file.
    pub(super) fn request(&self, key: &str, name: &Path) -> Result<Request> {
        self.check_online(name)?;
        let mut url = endpoint()?;
        let revision = lock(&self.commit).clone().unwrap_or_else(|| self.revision.clone());
        let parts = self.name.split('/').chain(["resolve", &revision]).chain(key.split('/'));
        append(&mut url, parts);
        Ok(Request { url, authorization: token(), range: None, unless: None, name: name.to_path_buf(), hub: true, later: false })
    }

    /// Records the commit that an answer names.
    pub(super) fn record_commit(&self, commit: Option<String>) {
        let plain = |commit: &String| commit.len() <= 64 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) && !commit.is_empty();
        if let Some(commit) = commit.filter(plain) {
            lock(&self.commit).get_or_insert(commit);
        }
    }

    /// Returns the files of the repository by path, if they have been listed.
    pub(super) fn listed(&self) -> Option<&BTreeMap<String, Identity>> {
        self.listing.get()?.as_ref().ok()
    }

    /// Returns the files of the repository by path.
    pub(super) fn list(&self) -> Result<&BTreeMap<String, Identity>> {
        self.listing.get_or_init(|| self.fetch_listing()).as_ref().map_err(Error::clone)
    }

    fn fetch_listing(&self) -> Result<BTreeMap<String, Identity>> {
        #[derive(Deserialize)]
        struct Entry {
            #[serde(rename = "type")]
            kind: String,
            path: String,
            size: Option<u64>,
            oid: Option<String>,
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Lfs {
            oid: String,
        }
        let shown = PathBuf::from(format!("hf://{}", self.name));
        self.check_online(&shown)?;
        let mut url = endpoint()?;
        let revision = lock(&self.commit).clone().unwrap_or_else(|| self.revision.clone());
        append(&mut url, ["api", "models"].into_iter().chain(self.name.split('/')).chain(["tree", &revision]));
        url.query_pairs_mut().append_pair("recursive", "1");
        let mut request = Request { url, authorization: token(), range: None, unless: None, name: shown.clone(), hub: true, later: false };
        let mut files = BTreeMap::new();
        for _ in 0..limits::LISTING_PAGES {
            let asked = request.clone();
            let answer = wait(async move { http::get(&asked).await })?;
            self.record_commit(answer.commit);
            let page: Vec<Entry> = json::from_bytes(answer.bytes.unwrap_or_default()).map_err(|error| {
                Error::malformed(format!("expected the Hub's list of files, found: {error}")).caused_by(error).in_file(&shown)
            })?;
            for entry in page.into_iter().filter(|entry| entry.kind == "file" && is_plain(&entry.path)) {
                let linked = entry.lfs.map(|lfs| lfs.oid).or(entry.oid).map(|oid| format!("\"{oid}\""));
                files.insert(entry.path, Identity { len: entry.size, linked, ..Identity::default() });
            }
            match answer.next {
                Some(next) => request.url = next,
                None => return Ok(files),
            }
        }
        Err(Error::limit(format!("expected at most {} pages of a list of files, found more", limits::LISTING_PAGES)).in_file(&shown))
    }

    fn check_online(&self, name: &Path) -> Result<()> {
        if !is_offline() {
            return Ok(());
        }
        Err(io("the model is not in the local cache, and HF_HUB_OFFLINE is set").in_file(name).hint(Hint::DownloadModel(self.name.clone())))
    }
}

fn is_offline() -> bool {
    variable("HF_HUB_OFFLINE").is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str()))
}

fn append<'s>(url: &mut Url, parts: impl Iterator<Item = &'s str>) {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
}

/// Returns the URL of the Hub.
fn endpoint() -> Result<Url> {
    let text = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.host().is_some());
    url.ok_or_else(|| Error::argument("expected HF_ENDPOINT to be the URL of a Hub, found another text"))
}

/// Returns the authorization of requests to the Hub: `HF_TOKEN`, or the token that a login stored.
fn token() -> Option<HeaderValue> {
    let file = || {
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")))?;
        std::fs::metadata(&path).ok().filter(|found| found.is_file() && found.len() <= limits::TOKEN_BYTES)?;
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?;
    let token = token.trim();
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

/// Returns the folder of `huggingface_hub`.
fn home() -> Option<PathBuf> {
    let user = || Some(PathBuf::from(variable("XDG_CACHE_HOME").map_or_else(|| Some(variable("HOME")? + "/.cache"), Some)?));
    variable("HF_HOME").map(PathBuf::from).or_else(|| Some(user()?.join("huggingface")))
}

/// Returns the snapshot of a model in the local cache, or the file of it that the address names, if they are there.
pub(super) fn cached(path: &Path) -> Option<PathBuf> {
    let address = Address::parse(path)?;
    let hub = Hub::new(&address.root);
    let cache = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")))?;
    let model = cache.join(format!("models--{}", hub.name.replace('/', "--")));
    let commit = std::fs::read_to_string(model.join("refs").join(&hub.revision)).ok();
    let commit = commit.as_deref().map_or(hub.revision.as_str(), str::trim);
    let plain = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let snapshot = model.join("snapshots").join(commit);
    if !plain || !snapshot.is_dir() {
        return None;
    }
    let found = if address.key.is_empty() { snapshot } else { snapshot.join(&address.key) };
    found.exists().then_some(found)
}

/// Returns the canonical address of `[models/]ORG/NAME[@REVISION][/PATH]`.
pub(super) fn canonical(rest: &str) -> Result<String> {
    let rest = rest.strip_prefix("models/").unwrap_or(rest);
    let bad = || Error::argument("expected hf://ORG/NAME[@REVISION][/PATH], found another address");
    let (org, rest) = rest.split_once('/').ok_or_else(bad)?;
    if matches!(org, "datasets" | "spaces" | "buckets") {
        return Err(Error::unsupported(format!("expected the address of a model, found one of {org}")));
    }
    let end = rest.find(['/', '@']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at_checked(end).ok_or_else(bad)?;
    let (revision, key) = match rest.strip_prefix('@') {
        // Git's name for a pull request has slashes.
        Some(rest) if rest.starts_with("refs/") => split_after(rest, 3),
        Some(rest) => split_after(rest, 1),
        None => ("", rest.trim_matches('/')),
    };
    address(org, name, revision, key).ok_or_else(bad)
}

/// Splits a path after a number of segments.
fn split_after(path: &str, segments: usize) -> (&str, &str) {
    let end = path.match_indices('/').nth(segments - 1).map_or(path.len(), |(at, _)| at);
    let (first, rest) = path.split_at_checked(end).unwrap_or((path, ""));
    (first, rest.trim_matches('/'))
}

fn address(org: &str, name: &str, revision: &str, key: &str) -> Option<String> {
    let revision = revision.replace("%2F", "/");
    let plain_revision = revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte)) && !revision.contains("..");
    if !is_name(org) || !is_name(name) || !plain_revision || !(key.is_empty() || is_plain(key)) {
        return None;
    }
    let at = if revision.is_empty() || revision == MAIN { String::new() } else { format!("@{}", revision.replace('/', "%2F")) };
    let slash = if key.is_empty() { "" } else { "/" };
    Some(format!("hf://{org}/{name}{at}{slash}{key}"))
}

/// Returns the `hf://` address of a page of the Hub: of a model, of its files, of one file.
///
/// # Errors
/// It is a page of the Hub, but not of a model.
pub(super) fn page(shown: &str) -> Result<Option<String>> {
    let Ok(url) = Url::parse(shown) else { return Ok(None) };
    let of_hub = |hub: &Url| hub.origin() == url.origin();
    let public = ["huggingface.co", "hf.co", "www.huggingface.co"].contains(&url.host_str().unwrap_or_default());
    if !public && !endpoint().is_ok_and(|hub| of_hub(&hub)) {
        return Ok(None);
    }
    let parts: Vec<String> = url.path_segments().into_iter().flatten().filter(|part| !part.is_empty()).map(decode_percent).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let found = match parts[..] {
        [org, name] => address(org, name, "", ""),
        [org, name, "blob" | "resolve" | "tree" | "raw", "refs", kind, number, ref rest @ ..] => {
            address(org, name, &format!("refs/{kind}/{number}"), &rest.join("/"))
        }
        [org, name, "blob" | "resolve" | "tree" | "raw", revision, ref rest @ ..] => address(org, name, revision, &rest.join("/")),
        _ => None,
    };
    let error = || Error::argument("expected the page of a model or of one of its files, found another page of the Hub");
    match found {
        None if public => Err(error().in_file(Path::new(shown))),
        found => Ok(found), // another Hub may serve other files too
    }
}

/// Returns the `hf://` address that a plain `ORG/NAME` stands for.
pub(super) fn plain_name(path: &Path) -> Option<PathBuf> {
    let (org, name) = path.to_str()?.split_once('/')?;
    let is_local = Path::new(org).exists() || is_file_name(name);
    (is_name(org) && is_name(name) && !is_local).then(|| PathBuf::from(format!("hf://{org}/{name}")))
}

/// Whether the text is the name of an organisation or of a model.
fn is_name(text: &str) -> bool {
    let fits = (1..=96).contains(&text.len()) && !text.starts_with(['.', '-']) && !text.contains("..");
    fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_models_are_brought_to_one_form() {
        let of = |text: &str| canonical(text).ok();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("org/name"), some("hf://org/name"));
        assert_eq!(of("models/org/name@main/"), some("hf://org/name"));
        assert_eq!(of("org/name@v1/a/b.gguf"), some("hf://org/name@v1/a/b.gguf"));
        assert_eq!(of("org/name@refs/pr/3/a.gguf"), some("hf://org/name@refs%2Fpr%2F3/a.gguf"));
        assert_eq!(of("org/name@refs%2Fpr%2F3/a.gguf"), some("hf://org/name@refs%2Fpr%2F3/a.gguf"));
        for bad in ["org", "", "/name", "org/..", "org/name/../x", "datasets/a/b", "org/na me", "org/name@../x", "org/name@a?b"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        let hub = Hub::new("hf://org/name@refs%2Fpr%2F3");
        assert_eq!((hub.name.as_str(), hub.revision.as_str()), ("org/name", "refs/pr/3"));
    }

    #[test]
    fn pasted_pages_are_addresses_too() {
        let of = |text: &str| page(text).ok().flatten();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("https://huggingface.co/org/name"), some("hf://org/name"));
        assert_eq!(of("https://huggingface.co/org/name/tree/main"), some("hf://org/name"));
        assert_eq!(of("https://huggingface.co/org/name/blob/v2/sub/a%20b.gguf"), some("hf://org/name@v2/sub/a b.gguf"));
        assert_eq!(of("https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/a.gguf"), some("hf://org/name@refs%2Fpr%2F1/a.gguf"));
        assert_eq!(of("https://huggingface.co/org/name/blob/refs/pr/1/a.gguf"), some("hf://org/name@refs%2Fpr%2F1/a.gguf"));
        assert_eq!(of("https://example.org/org/name/blob/main/a.gguf"), None);
        assert!(page("https://huggingface.co/datasets/org/name").is_err());
        assert!(page("https://huggingface.co/org/name/discussions/1").is_err());
    }

    #[test]
    fn only_a_name_without_a_file_ending_stands_for_a_model() {
        let of = |text: &str| plain_name(Path::new(text));
        assert_eq!(of("org-x/name-7B"), Some("hf://org-x/name-7B".into()));
        for local in ["name", "src/name", "org-x/name.gguf", "org-x/a/b", "./name", "../name", "org-x/na me", "/org-x/name"] {
            assert_eq!(of(local), None, "{local}");
        }
    }
}
