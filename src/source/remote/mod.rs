//! Models that are not on this machine: on a web server, on the Hugging Face Hub, in a bucket. Read by range, and only what is needed.
//! Buckets can also be written.
//!
//! A path that is an address (`https://`, `hf://`, `s3://`, `gs://`, `az://`) stands for a file or folder there. Nothing outside of this
//! module knows how it is reached.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use futures_util::{StreamExt, stream};

use crate::base::threads::lock;
use crate::base::{Error, Result, limits};
use crate::source::read::Source;

mod address;
mod blocks;
mod bucket;
mod buffers;
mod cache;
mod certificates;
mod file;
mod http;
mod hub;
mod link;
mod receive;
mod runtime;
mod upload;
mod web;

pub use address::conceal;
pub use cache::use_cache;
pub use upload::{Upload, abort_uploads};

use address::{Address, Scheme, is_file_name};
use bucket::Bucket;
use file::RemoteFile;
use http::Identity;
use hub::Hub;
use link::{Link, Store};
use web::Web;

/// The files of a store that are open or known to be absent.
type Files = Mutex<HashMap<String, Result<Arc<RemoteFile>>>>;

/// A store since it was last located: what is listed and open in it is of one moment.
#[derive(Debug)]
struct Mount {
    store: Arc<Store>,
    files: Files,
}

static MOUNTS: LazyLock<Mutex<HashMap<String, Arc<Mount>>>> = LazyLock::new(Mutex::default);

/// A file or folder of a store.
#[derive(Debug)]
pub(super) struct Place {
    address: Address,
    path: PathBuf,
    mount: Arc<Mount>,
}

/// Returns the canonical address that a path stands for, if it is one or may be a model's name on the Hub. What was known of its store is
/// forgotten, so that changes since then are seen.
///
/// # Errors
/// It is not a valid address.
pub fn locate(path: &Path) -> Result<Option<PathBuf>> {
    let found = canonical(path)?.or_else(|| hub::plain_name(path));
    if KEEPERS.load(Ordering::Relaxed) == 0 {
        found.iter().for_each(|found| forget(found));
    }
    Ok(found)
}

/// The number of [`Keeper`]s.
static KEEPERS: AtomicUsize = AtomicUsize::new(0);

/// Keeps what is known of stores until it is dropped: all models that are opened meanwhile are of one moment, and folders are listed once.
#[derive(Debug)]
pub struct Keeper(());

impl Keeper {
    /// Starts to keep what is known.
    pub fn start() -> Self {
        KEEPERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if KEEPERS.fetch_sub(1, Ordering::Relaxed) == 1 {
            lock(&MOUNTS).clear();
        }
    }
}

/// Forgets what was known of the store of an address.
pub(super) fn forget(address: &Path) {
    if let Some(address) = Address::parse(address) {
        lock(&MOUNTS).remove(&address.root);
    }
}

/// Returns the canonical form of an address: pasted pages of the Hub become `hf://`, and secrets are concealed. `None` if it is no address.
///
/// # Errors
/// It has a known scheme, but violates its grammar.
fn canonical(path: &Path) -> Result<Option<PathBuf>> {
    let Some(text) = path.to_str() else { return Ok(None) };
    if let Some(rest) = text.strip_prefix("hf://") {
        return hub::canonical(rest).map(|found| Some(found.into())).map_err(|error| error.in_file(path));
    }
    if text.starts_with("https://") || text.starts_with("http://") {
        let shown = conceal(text).unwrap_or_else(|| text.to_owned());
        return Ok(Some(hub::page(&shown)?.unwrap_or(shown).into()));
    }
    let Some(address) = Address::parse(path) else { return Ok(None) };
    let store = address.root.rsplit("://").next().unwrap_or_default();
    if store.is_empty() {
        return Err(Error::argument("expected the name of a bucket after the scheme, found none").in_file(path));
    }
    Ok(Some(path.to_path_buf()))
}

/// Returns the address of a file or folder that can be written.
fn writable(path: &Path) -> Result<Address> {
    let address = Address::parse(path).ok_or_else(|| Error::argument("expected an address").in_file(path))?;
    let (what, hint) = match address.scheme {
        Scheme::S3 | Scheme::Gcs | Scheme::Azure => return Ok(address),
        Scheme::Web => ("a web server", "write to a file, a folder or a bucket (s3://, gs://, az://)"),
        Scheme::Hub => ("the Hub", "write to a folder, then upload it with `hf upload`"),
    };
    Err(Error::argument(format!("cannot write to {what}")).in_file(path).hint(hint))
}

/// Returns where the model or file of an address is in the local cache of `huggingface_hub`, if it is there.
pub fn cached(address: &Path) -> Option<PathBuf> {
    let parsed = Address::parse(address).filter(|address| address.scheme == Scheme::Hub);
    parsed.and_then(|_| hub::cached(address))
}

/// Opens files at the same time that will be needed one after the other. Errors are reported when they are.
pub(super) fn prefetch(paths: &[PathBuf]) {
    let mut wanted = Vec::new();
    for path in paths.iter().take(limits::PREFETCHED_FILES) {
        let Some(Ok(place)) = Place::of(path) else { return };
        if !lock(&place.mount.files).contains_key(&place.address.key) {
            wanted.push(place);
        }
    }
    let opened = runtime::wait(async move {
        let open = |place: Place| async move {
            let file = place.fetch().await;
            lock(&place.mount.files).insert(place.address.key.clone(), file);
        };
        stream::iter(wanted).map(open).buffer_unordered(limits::REQUESTS).collect::<()>().await;
        Ok(())
    });
    drop(opened); // without a runtime, each file reports it
}

impl Place {
    /// Returns the place that a path is the address of; `None` if it is not an address.
    pub(super) fn of(path: &Path) -> Option<Result<Self>> {
        let address = Address::parse(path)?;
        Some(Mount::of(&address).map(|mount| Self { address, path: path.to_path_buf(), mount }))
    }

    /// Whether there is such a file. If that cannot be found out, it is taken to be there, and opening it reports the error.
    pub(super) fn is_file(&self) -> bool {
        if self.address.key.is_empty() {
            return false;
        }
        match self.listed() {
            Ok(Some(listed)) => listed,
            Ok(None) => !matches!(self.opened(), Err(error) if http::is_absent(&error)),
            Err(_) => true,
        }
    }

    /// Whether there is such a folder.
    pub(super) fn is_dir(&self) -> bool {
        if is_file_name(&self.address.key) {
            return false;
        }
        match &*self.mount.store {
            Store::Web(_) => self.path.as_os_str().as_encoded_bytes().ends_with(b"/") || self.address.key.is_empty(),
            Store::Hub(_) if self.address.key.is_empty() => true,
            Store::Hub(hub) => hub.list().is_ok_and(|files| files.keys().any(|file| is_inside(file, &self.address.key))),
            Store::Bucket(bucket) => match bucket.listed(parent(&self.address.key)) {
                Some(outer) if !self.address.key.is_empty() => outer.folders.contains(&self.address.key),
                _ => bucket.list(&self.address.key, &self.path).is_ok_and(|folder| !folder.is_empty()),
            },
        }
    }

    /// Whether the files of folders can be listed.
    pub(super) fn is_listable(&self) -> bool {
        !matches!(&*self.mount.store, Store::Web(_))
    }

    /// Returns the entries of a folder, sorted; of a web server, those with usual names.
    pub(super) fn entries(&self) -> Result<Vec<PathBuf>> {
        let key = &self.address.key;
        let path = |name: &str| self.address.path_of(if key.is_empty() { name.to_owned() } else { format!("{key}/{name}") }.as_str());
        let mut found: Vec<PathBuf> = match &*self.mount.store {
            Store::Web(_) => {
                let paths = web::NAMES.map(path);
                prefetch(&paths);
                paths.into_iter().filter(|path| matches!(Self::of(path), Some(Ok(place)) if place.is_file())).collect()
            }
            Store::Hub(hub) => {
                let inside = hub.list()?.keys().filter_map(|file| if key.is_empty() { Some(&**file) } else { inner(file, key) });
                inside.filter_map(|file| file.split('/').next()).map(path).collect()
            }
            Store::Bucket(bucket) => {
                let folder = bucket.list(key, &self.path)?;
                folder.files.keys().chain(&folder.folders).map(|key| self.address.path_of(key)).collect()
            }
        };
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Checks that the file or folder is where something can be written.
    pub(super) fn check_scheme(&self) -> Result<()> {
        writable(&self.path).map(drop)
    }

    /// Returns what changes when the file does, as far as its store tells; `None` if there is no such file.
    #[cfg(feature = "catalog")]
    pub(super) fn version(&self) -> Option<String> {
        let identity = match self.listed() {
            Ok(Some(true)) => self.known(),
            Ok(None) => self.opened().ok()?.identity(),
            _ => return None,
        };
        Some(format!("{identity:?}"))
    }

    /// Whether a bucket has such a file.
    pub(super) fn has_file(&self) -> Result<bool> {
        Ok(self.listed()?.unwrap_or(false))
    }

    /// Whether a bucket has files in such a folder.
    pub(super) fn has_folder(&self) -> Result<bool> {
        match &*self.mount.store {
            Store::Bucket(bucket) => Ok(!bucket.list(&self.address.key, &self.path)?.is_empty()),
            _ => Ok(self.is_dir()),
        }
    }

    /// Removes a file of a bucket.
    pub(super) fn remove(&self) -> Result<()> {
        match &*self.mount.store {
            Store::Bucket(bucket) => bucket.remove(&self.address.key, &self.path),
            _ => writable(&self.path).map(drop),
        }
    }

    /// Opens the file.
    pub(super) fn open(&self) -> Result<Arc<dyn Source>> {
        self.opened().map(|file| file as Arc<dyn Source>)
    }

    /// Reads a whole file of at most `most` bytes.
    pub(super) fn read_at_most(&self, most: u64) -> Result<Vec<u8>> {
        let file = self.opened()?;
        let len = file.len();
        if len > most {
            return Err(Error::limit(format!("expected a file of at most {most} bytes, found {len}")).in_file(&self.path));
        }
        let bytes = file.read(0..len)?.into_owned();
        file.header_read(&bytes);
        Ok(bytes)
    }

    /// Returns the file, opened once.
    fn opened(&self) -> Result<Arc<RemoteFile>> {
        if let Some(known) = lock(&self.mount.files).get(&self.address.key) {
            return known.clone();
        }
        let place = Self { address: self.address.clone(), path: self.path.clone(), mount: Arc::clone(&self.mount) };
        let file = runtime::wait(async move { place.fetch().await });
        lock(&self.mount.files).insert(self.address.key.clone(), file.clone());
        file
    }

    async fn fetch(&self) -> Result<Arc<RemoteFile>> {
        let link = Link::new(Arc::clone(&self.mount.store), self.address.key.clone(), self.path.clone(), self.known());
        RemoteFile::open(link, self.cache_name()?).await.map(Arc::new)
    }

    /// Returns what a listing that has been fetched says of the file.
    fn known(&self) -> Identity {
        let known = match &*self.mount.store {
            Store::Web(_) => None,
            Store::Hub(hub) => hub.listed().and_then(|files| files.get(&self.address.key).cloned()),
            Store::Bucket(bucket) => bucket.listed(parent(&self.address.key)).and_then(|files| files.files.get(&self.address.key).cloned()),
        };
        known.unwrap_or_default()
    }

    /// Returns the name under which the cache keeps the file: where it is fetched from, with what a URL conceals.
    fn cache_name(&self) -> Result<String> {
        Ok(match &*self.mount.store {
            Store::Web(_) => address::url_of(&self.address)?.to_string(),
            Store::Hub(_) => format!("{} {}", runtime::variable("HF_ENDPOINT").unwrap_or_default(), self.path.display()),
            Store::Bucket(_) => {
                let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(runtime::variable);
                format!("{} {}", endpoint.unwrap_or_default(), self.path.display())
            }
        })
    }

    /// Whether the file is listed; `None` for a server without a listing.
    fn listed(&self) -> Result<Option<bool>> {
        let key = &self.address.key;
        Ok(match &*self.mount.store {
            Store::Web(_) => None,
            Store::Hub(hub) => Some(hub.list()?.contains_key(key)),
            Store::Bucket(bucket) => Some(bucket.list(parent(key), &self.path)?.files.contains_key(key)),
        })
    }
}

impl Mount {
    /// Returns the store of an address.
    fn of(address: &Address) -> Result<Arc<Self>> {
        let mut mounts = lock(&MOUNTS);
        if let Some(mount) = mounts.get(&address.root) {
            return Ok(Arc::clone(mount));
        }
        let store = match address.scheme {
            Scheme::Web => Store::Web(Web),
            Scheme::Hub => Store::Hub(Hub::new(&address.root)),
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => Store::Bucket(Bucket::new(address)?),
        };
        let mount = Arc::new(Self { store: Arc::new(store), files: Mutex::default() });
        mounts.insert(address.root.clone(), Arc::clone(&mount));
        Ok(mount)
    }
}

/// Returns the folder of a file; empty at the top.
fn parent(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Returns the path of a file relative to a folder that it is inside of.
fn inner<'f>(file: &'f str, folder: &str) -> Option<&'f str> {
    file.strip_prefix(folder)?.strip_prefix('/')
}

fn is_inside(file: &str, folder: &str) -> bool {
    inner(file, folder).is_some()
}
