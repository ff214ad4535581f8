//! Removes temporary files, and aborts uploads, on signals that end the process.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, OnceLock};

use crate::base::threads::{lock, try_lock};
use crate::source::remote;

/// Paths of the files to remove on a signal, converted in advance because a signal handler cannot allocate.
static TEMPORARIES: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());

/// Callback, called before the first temporary file is created.
static WATCH: OnceLock<fn()> = OnceLock::new();

fn temporaries() -> MutexGuard<'static, BTreeSet<CString>> {
    lock(&TEMPORARIES)
}

/// Blocks the handling of signals that end the process until the result is dropped. No [`Guard`] may be created or dropped meanwhile.
pub(crate) fn hold() -> impl Drop {
    watch();
    temporaries()
}

/// Removes the temporary files from a signal handler, without allocating. No new ones can be created afterwards. Uploads are left to the
/// bucket's own rules.
pub fn remove_temporaries() {
    let list = try_lock(&TEMPORARIES);
    remove(list.iter().flat_map(|list| list.iter()));
    std::mem::forget(list);
}

fn remove<'a>(paths: impl Iterator<Item = &'a CString>) {
    for path in paths {
        let _ = rustix::fs::unlink(path.as_c_str());
    }
}

/// Registers a file for removal on a signal until dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    entry: CString,
    /// The file to remove on drop.
    removes: Option<PathBuf>,
}

impl Guard {
    /// Creates a file with `make`, which also returns its path. Signals are held until the file is registered.
    pub(crate) fn create<T, E>(make: impl FnOnce() -> Result<(T, PathBuf), E>) -> Result<(T, Self), E> {
        watch();
        let mut list = temporaries();
        let (made, path) = make()?;
        let entry = to_c(&path);
        list.insert(entry.clone());
        Ok((made, Self { entry, removes: None }))
    }

    /// Makes dropping the guard remove the file too, atomically with respect to signals: once it is removed, another run may create a file
    /// with the same name, which this run must not delete.
    pub(crate) fn removing(mut self, path: PathBuf) -> Self {
        self.removes = Some(path);
        self
    }
}

/// Paths do not contain NUL bytes.
fn to_c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default()
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut list = temporaries();
        if let Some(path) = &self.removes {
            let _ = std::fs::remove_file(path);
        }
        list.remove(&self.entry);
    }
}

/// Registers `watch` to be called once, before the first temporary file is created (most commands create none). It should install handlers
/// that call [`remove_and_exit`]. For the command line: a library must not change signal handling in its host.
pub fn on_first_temporary(watch: fn()) {
    let _ = WATCH.set(watch);
}

/// Removes the temporary files, aborts the uploads and exits; no new ones can be created.
pub fn remove_and_exit(status: i32) -> ! {
    let list = temporaries();
    remove(list.iter());
    remote::abort_uploads();
    std::process::exit(status)
}

/// Installs the signal handlers once, if registered.
fn watch() {
    static STARTED: Once = Once::new();
    if let Some(watch) = WATCH.get() {
        STARTED.call_once(watch);
    }
}
