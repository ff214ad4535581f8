//! Object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};

use crate::base::threads::lock;
use crate::base::{Error, Hint, Result, limits};
use crate::source::remote::address::{Address, Scheme};
use crate::source::remote::http::{Identity, Status, io, patience};
use crate::source::remote::runtime::{prepare_tls, variable, wait};

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    folders: Mutex<HashMap<String, Arc<Folder>>>,
}

/// The contents of a folder, by full key.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) files: HashMap<String, Identity>,
    pub(super) folders: Vec<String>,
}

impl Folder {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.folders.is_empty()
    }
}

impl Bucket {
    /// Opens the bucket of an address, with the credentials of the environment.
    pub(super) fn new(address: &Address) -> Result<Self> {
        let options = ClientOptions::new()
            .with_connect_timeout(patience())
            .with_read_timeout(patience())
            .with_timeout(limits::REQUEST_TIME + limits::RETRY_TIME);
        Ok(Self { store: open_store(address, options)?, folders: Mutex::default() })
    }

    /// Removes an object.
    pub(super) fn remove(&self, key: &str, name: &Path) -> Result<()> {
        let (store, key) = (Arc::clone(&self.store), path_of(key, name)?);
        wait(async move { Ok(store.delete(&key).await) })?.map_err(|error| word(&error, Access::Write).in_file(name))
    }

    /// Returns the contents of a folder, which are listed once.
    pub(super) fn list(&self, key: &str, name: &Path) -> Result<Arc<Folder>> {
        if let Some(folder) = lock(&self.folders).get(key) {
            return Ok(Arc::clone(folder));
        }
        let (store, prefix) = (Arc::clone(&self.store), path_of(key, name)?);
        let listing = async move { Ok(store.list_with_delimiter(Some(&prefix)).await) };
        let listed = wait(listing)?.map_err(|error| word(&error, Access::Read).in_file(name))?;
        let identity =
            |object: &object_store::ObjectMeta| Identity { len: Some(object.size), etag: etag_of(object), ..Identity::default() };
        let found = Arc::new(Folder {
            files: listed.objects.iter().map(|object| (object.location.to_string(), identity(object))).collect(),
            folders: listed.common_prefixes.iter().map(ToString::to_string).collect(),
        });
        lock(&self.folders).insert(key.to_owned(), Arc::clone(&found));
        Ok(found)
    }

    /// Returns the contents of a folder, if they have been listed.
    pub(super) fn listed(&self, key: &str) -> Option<Arc<Folder>> {
        lock(&self.folders).get(key).cloned()
    }

    /// Reads a range of an object, of the version with the given tag.
    pub(super) async fn get(&self, key: &str, range: Range<u64>, tag: Option<String>, name: &Path) -> Result<(Vec<u8>, Identity)> {
        let wanted = range.end.saturating_sub(range.start);
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), if_match: tag, ..GetOptions::default() };
        let failed = |error: &object_store::Error| word(error, Access::Read).in_file(name);
        let got = self.store.get_opts(&path_of(key, name)?, options).await.map_err(|error| failed(&error))?;
        let identity = Identity { len: Some(got.meta.size), etag: etag_of(&got.meta), ..Identity::default() };
        let expected = got.range.end.saturating_sub(got.range.start);
        if got.range.start != range.start || expected > wanted {
            return Err(io(format!("expected bytes {range:?} of the file, found bytes {:?}", got.range)).in_file(name));
        }
        let mut bytes = super::buffers::take(expected.min(limits::CHUNK_BYTES as u64) as usize)?;
        let mut stream = got.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| failed(&error))?;
            let left = expected - bytes.len() as u64;
            let take = left.min(chunk.len() as u64) as usize;
            bytes.try_reserve(take).map_err(|_| Error::limit(format!("expected memory for {wanted} bytes")).in_file(name))?;
            bytes.extend_from_slice(chunk.get(..take).unwrap_or_default());
        }
        if bytes.len() as u64 != expected {
            return Err(Error::truncated(format!("the answer ended after {} of {expected} bytes", bytes.len())).in_file(name));
        }
        Ok((bytes, identity))
    }
}

/// Returns the entity tag of an object as a request has it: listings of Azure leave out its quotes.
fn etag_of(object: &object_store::ObjectMeta) -> Option<String> {
    let tag = object.e_tag.as_ref()?;
    Some(if tag.ends_with('"') { tag.clone() } else { format!("\"{tag}\"") })
}

/// Returns the client of a bucket, with the credentials of the environment.
pub(super) fn open_store(address: &Address, options: ClientOptions) -> Result<Arc<dyn ObjectStore>> {
    prepare_tls();
    let name = address.root.rsplit("://").next().unwrap_or_default();
    let retry = RetryConfig { max_retries: limits::RETRIES, retry_timeout: limits::RETRY_TIME, ..RetryConfig::default() };
    let options = options.with_allow_http(variable("AWS_ALLOW_HTTP").is_some_and(|allow| allow == "true" || allow == "1"));
    let store: Result<Arc<dyn ObjectStore>, object_store::Error> = match address.scheme {
        Scheme::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(name).with_retry(retry);
            builder.with_client_options(options).build().map(|store| Arc::new(store) as _)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(name).with_retry(retry);
            builder.with_client_options(options).build().map(|store| Arc::new(store) as _)
        }
        _ => {
            // Not all that speak the protocol remove many files at once.
            let builder = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retry).with_disable_bulk_delete(true);
            builder.with_client_options(options).build().map(|store| Arc::new(store) as _)
        }
    };
    store.map_err(|error| word(&error, Access::Read).in_file(Path::new(&address.root)))
}

/// An operation on a bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

pub(super) fn path_of(key: &str, name: &Path) -> Result<ObjectPath> {
    ObjectPath::parse(key).map_err(|_| Error::argument("expected the key of an object, found another text").in_file(name))
}

/// Words an error of the library, whose own text may have URLs and answers of the server in it.
pub(super) fn word(error: &object_store::Error, access: Access) -> Error {
    use object_store::Error as E;
    let (message, status, hint): (_, _, Option<Hint>) = match (error, access) {
        (E::NotFound { .. }, Access::Read) => ("the bucket has no such file", Some(404), None),
        (E::NotFound { .. }, Access::Write) => ("there is no such bucket, or the upload has ended", Some(404), None),
        (E::PermissionDenied { .. }, _) => ("the bucket refuses access", Some(403), Some(Hint::SetCredentials)),
        (E::Unauthenticated { .. }, _) => ("the bucket asks for credentials", Some(401), Some(Hint::SetCredentials)),
        (E::Precondition { .. }, _) => {
            ("the file changed while it was read", Some(412), Some("run it again when nothing writes to the file".into()))
        }
        (E::NotModified { .. }, _) => ("the bucket sent no file", Some(304), None),
        (E::UnknownConfigurationKey { .. }, _) => ("an environment variable of the bucket has a value that is not known", None, None),
        _ => return unexpected(error, access),
    };
    let error = match status {
        Some(status) => io(format!("{message} ({status})")).caused_by(Status(status)),
        None => io(message),
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn unexpected(error: &object_store::Error, access: Access) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    // The library's own errors quote URLs.
    let text = cause.to_string();
    let text = if text.contains("://") { "the exchange with the server failed".to_owned() } else { text };
    let doing = if access == Access::Read { "read" } else { "write to" };
    io(format!("cannot {doing} the bucket: {text}")).hint(Hint::SetCredentials)
}
