//! Removal of temporary files when a signal ends the process.

use crate::base::{Error, ErrorKind, Result};
use crate::write::signals;

/// Makes SIGINT, SIGTERM and SIGHUP remove the temporary files of [`crate::write::output`] and end the process with status 128 + n, unless the
/// process was started with the signal ignored (as by `nohup`). A write past RLIMIT_FSIZE becomes an error instead of ending the process. For
/// the command line only: a library must not change its host's signal handling.
///
/// If the thread that waits for signals cannot be started, an interrupted run leaves a temporary file behind, which is no reason not to run.
///
/// # Errors
/// A signal handler cannot be installed.
pub fn clean_up_on_signals() -> Result<()> {
    // With any handler installed, the write fails with EFBIG, which is the aim.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default())
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot handle signals: {error}")))?;
    signals::on_first_temporary(|| {
        let _ = wait_for_signals();
    });
    Ok(())
}

fn wait_for_signals() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored_signals();
    let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| ignored >> (signal - 1) & 1 == 0).collect();
    let mut waiting = signal_hook::iterator::Signals::new(&wanted)?;
    let wait = move || {
        if let Some(signal) = waiting.forever().next() {
            signals::remove_and_exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// Returns the signals that this process was started with ignored, as a bit mask (bit n - 1 for signal n); 0 if unknown.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
