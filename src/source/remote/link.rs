//! What is known of a remote file, and how its bytes are fetched.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use reqwest::Url;

use crate::base::threads::lock;
use crate::base::{Error, Result};
use crate::source::remote::bucket::Bucket;
use crate::source::remote::http::{self, Answer, Body, Identity, Request, changed, is_absent, status_of};
use crate::source::remote::hub::Hub;
use crate::source::remote::web::Web;

/// The kinds of stores.
#[derive(Debug)]
pub(super) enum Store {
    Web(Web),
    Hub(Hub),
    Bucket(Bucket),
}

/// A file of a store.
#[derive(Debug)]
pub(super) struct Link {
    store: Arc<Store>,
    key: String,
    path: PathBuf,
    identity: Mutex<Identity>,
    /// The URL that answered last, after redirects.
    url: Mutex<Option<Url>>,
}

impl Link {
    /// Returns a file of which `known` is known.
    pub(super) fn new(store: Arc<Store>, key: String, path: PathBuf, known: Identity) -> Self {
        Self { store, key, path, identity: Mutex::new(known), url: Mutex::new(None) }
    }

    /// Returns the path to use in messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is known of the file.
    pub(super) fn identity(&self) -> Identity {
        lock(&self.identity).clone()
    }

    /// Returns a range of bytes.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; the file is not the one that it was.
    pub(super) async fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        Ok(self.fetch_unless(range, None).await?.unwrap_or_default())
    }

    /// Returns a range of bytes; `None` if the file still has the given tag.
    pub(super) async fn fetch_unless(&self, range: Range<u64>, unless: Option<String>) -> Result<Option<Vec<u8>>> {
        if let Store::Bucket(bucket) = &*self.store {
            let (bytes, identity) = match bucket.get(&self.key, range, self.identity().etag, &self.path).await {
                Err(error) if status_of(&error) == Some(412) => return Err(changed(&self.path)),
                got => got?,
            };
            self.check(&identity)?;
            return Ok(Some(bytes));
        }
        Ok(self.ask(Request { unless, ..self.request(range)? }).await?.bytes)
    }

    /// Whether ranges of bytes can be received piece by piece.
    pub(super) fn streams(&self) -> bool {
        !matches!(&*self.store, Store::Bucket(_))
    }

    /// Starts to receive a range of bytes.
    ///
    /// # Errors
    /// As for [`Self::fetch`].
    pub(super) async fn open(&self, range: Range<u64>) -> Result<Body> {
        let answer = self.ask(Request { later: true, ..self.request(range)? }).await?;
        answer.body.ok_or_else(|| changed(&self.path))
    }

    /// Returns the request for a range of bytes.
    fn request(&self, range: Range<u64>) -> Result<Request> {
        let request = match &*self.store {
            Store::Web(web) => web.request(&self.path)?,
            Store::Hub(hub) => hub.request(&self.key, &self.path)?,
            Store::Bucket(_) => return Err(Error::unsupported("a bucket has a client of its own").in_file(&self.path)),
        };
        Ok(Request { range: Some(range), ..request })
    }

    /// Performs a request, and checks the answer against the others.
    async fn ask(&self, request: Request) -> Result<Answer> {
        let answer = self.answer(request).await?;
        if let Store::Hub(hub) = &*self.store {
            hub.record_commit(answer.commit.clone());
        }
        self.check(&answer.identity)?;
        *lock(&self.url) = Some(answer.url.clone());
        Ok(answer)
    }

    /// Asks the server to which the last request was redirected; if it no longer answers, as such links expire, starts over.
    async fn answer(&self, request: Request) -> Result<Answer> {
        let last = lock(&self.url).clone().filter(|url| *url != request.url);
        if let Some(url) = last {
            let same = url.origin() == request.url.origin();
            let direct = Request { url, authorization: request.authorization.clone().filter(|_| same), ..request.clone() };
            match http::get(&direct).await {
                Err(error) if is_absent(&error) => {}
                answer => return answer,
            }
        }
        http::get(&request).await
    }

    /// Checks an answer against the others.
    fn check(&self, identity: &Identity) -> Result<()> {
        if lock(&self.identity).differs_after_adding(identity) { Err(changed(&self.path)) } else { Ok(()) }
    }
}
