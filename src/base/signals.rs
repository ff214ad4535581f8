//! Signals that end the process: temporary files are removed first, so that a broken-off run leaves nothing behind.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::sync::TryLockError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::base::{Error, ErrorKind, Result};

/// The files to remove when the process is told to end, as the system takes their paths: a handler cannot make them so.
static TEMPORARIES: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());

/// Whether the process is weigh's own, so that it may handle signals.
static OURS: AtomicBool = AtomicBool::new(false);

fn temporaries() -> MutexGuard<'static, BTreeSet<CString>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes signals that end the process wait for as long as the result lives. No [`Guard`] may be made or dropped meanwhile.
pub(crate) fn hold() -> impl Drop {
    watch();
    temporaries()
}

/// Takes a lock inside the handler of a signal, where waiting is not allowed: tries for about a second. The thread that has it may be the
/// one that was interrupted.
#[cfg(unix)]
pub(super) fn try_lock<T>(lock: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..1_000 {
        match lock.try_lock() {
            Ok(held) => return Some(held),
            Err(TryLockError::Poisoned(held)) => return Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
    None
}

/// Removes the temporary files inside the handler of a signal that ends the process: takes no memory. As long as the result is kept, no
/// new ones are made.
#[cfg(unix)]
pub(super) fn remove_temporaries() -> impl Sized {
    let list = try_lock(&TEMPORARIES);
    remove(list.iter().flat_map(|list| list.iter()));
    list
}

#[cfg(unix)]
fn remove<'a>(paths: impl Iterator<Item = &'a CString>) {
    for path in paths {
        let _ = rustix::fs::unlink(path.as_c_str());
    }
}

/// Keeps a file on the list of what is removed on a signal, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Guard(CString);

impl Guard {
    /// Makes a file with `make`, which gives the file's path as well. A signal waits until the file is made and on the list.
    pub(crate) fn create<T, E>(make: impl FnOnce() -> std::result::Result<(T, PathBuf), E>) -> std::result::Result<(T, Self), E> {
        watch();
        let mut list = temporaries();
        let (made, path) = make()?;
        let path = to_c(&path);
        list.insert(path.clone());
        Ok((made, Self(path)))
    }
}

/// No path has a zero byte in it.
fn to_c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default()
}

impl Drop for Guard {
    fn drop(&mut self) {
        temporaries().remove(&self.0);
    }
}

/// From here on, SIGINT, SIGTERM and SIGHUP remove the temporary files of [`crate::base::output`] and end the process with status
/// 128 + n, unless the process was started with the signal ignored (as `nohup` does). A write past RLIMIT_FSIZE becomes an error
/// instead of a crash. For the command line: a library must not change its host's signals.
///
/// The thread that waits for signals is started with the first temporary file: most commands make none. Where the system refuses it,
/// an interrupted run leaves a temporary file behind, which is no reason not to run.
///
/// # Errors
/// The system refuses a handler.
#[cfg(unix)]
pub fn clean_up_on_signals() -> Result<()> {
    // With any handler in place the write fails with EFBIG, which is all that is wanted.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default())
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot handle signals: {error}")))?;
    OURS.store(true, Ordering::Relaxed);
    Ok(())
}

/// Starts to wait for signals, once, in a process that is weigh's own.
fn watch() {
    #[cfg(unix)]
    if OURS.load(Ordering::Relaxed) {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let _ = wait_for_signals();
        });
    }
}

#[cfg(unix)]
fn wait_for_signals() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored_signals();
    let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| ignored >> (signal - 1) & 1 == 0).collect();
    let mut signals = signal_hook::iterator::Signals::new(&wanted)?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            let list = temporaries(); // kept locked: nothing new is made from here on
            remove(list.iter());
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// The signals that this process was started with ignored, as a bit mask (bit n - 1 for signal n); none where that cannot be told.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
