//! Signals that end the process: temporary files are removed first, so that a broken-off run leaves nothing behind.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

use crate::base::threads::try_lock;

/// The files to remove when the process is told to end, as the system takes their paths: a handler cannot make them so.
static TEMPORARIES: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());

/// What is called before the first temporary file is made.
static WATCH: OnceLock<fn()> = OnceLock::new();

fn temporaries() -> MutexGuard<'static, BTreeSet<CString>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes signals that end the process wait for as long as the result lives. No [`Guard`] may be made or dropped meanwhile.
pub(crate) fn hold() -> impl Drop {
    watch();
    temporaries()
}

/// Removes the temporary files inside the handler of a signal that ends the process: takes no memory. From here on no new ones are made.
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

/// Keeps a file on the list of what is removed on a signal, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Guard {
    entry: CString,
    /// What dropping the guard removes.
    removes: Option<PathBuf>,
}

impl Guard {
    /// Makes a file with `make`, which gives the file's path as well. A signal waits until the file is made and on the list.
    pub(crate) fn create<T, E>(make: impl FnOnce() -> Result<(T, PathBuf), E>) -> Result<(T, Self), E> {
        watch();
        let mut list = temporaries();
        let (made, path) = make()?;
        let entry = to_c(&path);
        list.insert(entry.clone());
        Ok((made, Self { entry, removes: None }))
    }

    /// Makes dropping the guard remove the file as well, at one go for signals: once it is gone, another run may make a file of this name,
    /// which no signal of this run may remove.
    pub(crate) fn removing(mut self, path: PathBuf) -> Self {
        self.removes = Some(path);
        self
    }
}

/// No path has a zero byte in it.
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

/// From here on, `watch` is called once, before the first temporary file is made: most commands make none. It is to see to it that signals
/// that end the process call [`remove_and_exit`]. For the command line: a library must not change its host's signals.
pub fn on_first_temporary(watch: fn()) {
    let _ = WATCH.set(watch);
}

/// Removes the temporary files and ends the process; nothing new is made meanwhile.
pub fn remove_and_exit(status: i32) -> ! {
    let list = temporaries();
    remove(list.iter());
    std::process::exit(status)
}

/// Starts to wait for signals, once, where somebody asked for it.
fn watch() {
    static STARTED: Once = Once::new();
    if let Some(watch) = WATCH.get() {
        STARTED.call_once(watch);
    }
}
