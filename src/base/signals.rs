//! Signals that end the process: temporary files are removed first, so that a broken-off run leaves nothing behind.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::{Error, ErrorKind, Result};

/// The files to remove when the process is told to end.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes signals wait for as long as the result lives. No [`Guard`] may be made or dropped meanwhile.
pub(crate) fn hold() -> impl Drop {
    temporaries()
}

/// Keeps a file on the list of what is removed on a signal, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Guard(PathBuf);

impl Guard {
    /// Makes a file with `make`, which gives the file's path as well. A signal waits until the file is made and on the list.
    pub(crate) fn create<T>(make: impl FnOnce() -> Result<(T, PathBuf)>) -> Result<(T, Self)> {
        let mut list = temporaries();
        let (made, path) = make()?;
        list.insert(path.clone());
        Ok((made, Self(path)))
    }
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
/// # Errors
/// The system refuses the handlers or the thread that waits for them.
#[cfg(unix)]
pub fn clean_up_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    let failed = |error| Error::new(ErrorKind::Io, format!("cannot handle signals: {error}"));
    // With any handler in place the write fails with EFBIG, which is all that is wanted.
    signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default()).map_err(failed)?;
    let ignored = ignored_signals();
    let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| ignored >> (signal - 1) & 1 == 0).collect();
    let mut signals = signal_hook::iterator::Signals::new(&wanted).map_err(failed)?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            let list = temporaries(); // kept locked: nothing new is made from here on
            for path in list.iter() {
                let _ = std::fs::remove_file(path);
            }
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(failed)?;
    Ok(())
}

/// The signals that this process was started with ignored, as a bit mask (bit n - 1 for signal n); none where that cannot be told.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
