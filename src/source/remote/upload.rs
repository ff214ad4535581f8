//! Uploads to buckets, in parts: a file is visible when its upload is completed, whole, and not before.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, LazyLock, Mutex};

use futures_util::future::{AbortHandle, Abortable};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ClientOptions, MultipartUpload, ObjectStoreExt};

use crate::base::threads::lock;
use crate::base::{Error, Result, limits};
use crate::source::file::read_exact_at;
use crate::source::remote::bucket::{self, Access, path_of};
use crate::source::remote::http::{io, patience};
use crate::source::remote::runtime::{spawn, wait};
use crate::source::remote::writable;

/// Uploads that are neither completed nor aborted.
static PENDING: LazyLock<Mutex<HashMap<PathBuf, Arc<Pending>>>> = LazyLock::new(Mutex::default);

/// A file that is being uploaded in the background. Unless it is completed, dropping it aborts the upload.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
    pending: Arc<Pending>,
    /// Whether all parts are known to be sent.
    sent: bool,
}

/// The state of an upload.
#[derive(Debug)]
struct Pending {
    /// `None` once it is completed or aborted.
    multipart: Mutex<Option<Box<dyn MultipartUpload>>>,
    /// Stops the sending of parts.
    stop: AbortHandle,
    /// Gets the result of sending all parts.
    ended: Mutex<Receiver<Result<()>>>,
}

impl Upload {
    /// Starts to upload a file of `bytes` bytes to an address.
    ///
    /// # Errors
    /// The bucket cannot be reached or refuses.
    pub fn start(path: &Path, file: File, bytes: u64) -> Result<Self> {
        let address = writable(path)?;
        let part = part_bytes(bytes);
        // A bucket may answer only when it has all of a part.
        let time = limits::REQUEST_TIME + std::time::Duration::from_secs(part / limits::LEAST_BYTES_PER_SECOND);
        let store = bucket::open_store(&address, ClientOptions::new().with_connect_timeout(patience()).with_timeout(time))?;
        let key = path_of(&address.key, path)?;
        // Locked, so that a signal does not come between the start of an upload and its registration.
        let mut all = lock(&PENDING);
        let multipart = wait(async move { Ok(store.put_multipart(&key).await) })?.map_err(|error| word(&error, path))?;
        let (done, ended) = sync_channel(1);
        let (stop, registration) = AbortHandle::new_pair();
        let pending = Arc::new(Pending { multipart: Mutex::new(Some(multipart)), stop, ended: Mutex::new(ended) });
        let (sender, name) = (Arc::clone(&pending), path.to_path_buf());
        let task = async move {
            let _ = done.send(send(&sender, &file, bytes, part, &name).await);
        };
        all.insert(path.to_path_buf(), Arc::clone(&pending));
        let upload = Self { path: path.to_path_buf(), pending, sent: false };
        drop(all);
        spawn(async move {
            let _ = Abortable::new(task, registration).await;
        })?;
        Ok(upload)
    }

    /// Waits until all parts are sent.
    ///
    /// # Errors
    /// One could not be sent.
    pub fn wait(&mut self) -> Result<()> {
        if !self.sent {
            lock(&self.pending.ended).recv().unwrap_or_else(|_| Err(stopped(&self.path)))?;
            self.sent = true;
        }
        Ok(())
    }

    /// Makes the file visible, in place of one that is there.
    ///
    /// # Errors
    /// A part could not be sent, or the bucket refuses.
    pub fn complete(mut self) -> Result<()> {
        self.wait()?;
        let mut multipart = lock(&self.pending.multipart).take().ok_or_else(|| stopped(&self.path))?;
        let completed = wait(async move {
            let completed = multipart.complete().await;
            if completed.is_err() {
                let _ = multipart.abort().await;
            }
            Ok(completed)
        })?;
        completed.map(drop).map_err(|error| word(&error, &self.path))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.pending.abort();
        lock(&PENDING).remove(&self.path);
    }
}

impl Pending {
    /// Aborts the upload, which frees what the bucket holds of it.
    fn abort(&self) {
        self.stop.abort();
        // Until the task has ended: a part that arrives after the abort would stay.
        let _ = lock(&self.ended).recv();
        if let Some(mut multipart) = lock(&self.multipart).take() {
            let _ = wait(async move { Ok(multipart.abort().await) });
        }
    }
}

/// Aborts all uploads; no new ones can be started. For the end of the process: the list stays locked, so that a thread whose upload fails by this
/// waits in dropping it, and does not report the failure.
pub fn abort_uploads() {
    let all = lock(&PENDING);
    all.values().for_each(|pending| pending.abort());
    std::mem::forget(all);
}

/// Sends all parts of a file, several at a time.
async fn send(pending: &Pending, file: &File, bytes: u64, part: u64, path: &Path) -> Result<()> {
    let ranges = (0..bytes.div_ceil(part)).map(|number| number * part..bytes.min((number + 1) * part));
    let parts = stream::iter(ranges).map(|range| {
        let bytes = read(file, range).map_err(|error| Error::io("cannot read back the file for", path, error))?;
        let sent = lock(&pending.multipart).as_mut().map(|multipart| multipart.put_part(bytes.into()));
        let sent = sent.ok_or_else(|| stopped(path))?;
        Ok(async move { sent.await.map_err(|error| word(&error, path)) })
    });
    let at_once = usize::try_from(limits::UPLOAD_BYTES / part).unwrap_or(1).max(1);
    parts.try_buffer_unordered(at_once).try_collect().await
}

fn read(file: &File, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(range.end - range.start).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    read_exact_at(file, &mut bytes, range.start)?;
    Ok(bytes)
}

/// Returns the size of all parts but the last: a file has a limited number of them.
fn part_bytes(bytes: u64) -> u64 {
    limits::UPLOAD_PART_BYTES.max(bytes.div_ceil(limits::UPLOAD_PARTS))
}

fn word(error: &object_store::Error, path: &Path) -> Error {
    bucket::word(error, Access::Write).in_file(path)
}

fn stopped(path: &Path) -> Error {
    io("the upload was stopped").in_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_object_has_as_many_parts_as_a_bucket_takes() {
        for bytes in [0, 1, 8 << 20, (80 << 30) + 1, 5 << 40] {
            let part = part_bytes(bytes);
            assert!(part >= 5 << 20 && bytes.div_ceil(part) <= 10_000, "{bytes}");
        }
    }
}
