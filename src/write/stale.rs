//! Cleanup of temporary files left by killed runs (SIGKILL, system crash): the next run that writes to the folder removes them.
//!
//! Every run holds shared locks on the folders where it may have temporary files. A run that gets an exclusive lock knows that no temporary
//! file there is in use.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// Name prefix of temporary files; short, so that the longest possible target name works.
pub(super) const PREFIX: &str = ".weigh-";

/// Name prefix of old files of a set while it is being replaced; only the run itself removes these.
pub(super) const OLD_PREFIX: &str = ".weigh-old-";

/// Length of the random suffix.
pub(super) const RANDOM: usize = 8;

/// Number of attempts to take a lock held exclusively by another run, which only removes files, and the delay between them.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Removes what killed runs left in a folder, and holds a shared lock until dropped. If the system has no such locks, or another program
/// holds the folder for long, does nothing.
pub(super) fn claim(folder: &Path) -> Option<File> {
    let lock = File::open(folder).ok()?;
    if lock.try_lock().is_ok() {
        clear(folder);
        // Released, so that the next lock is a shared one.
        lock.unlock().ok()?;
    }
    for _ in 0..TRIES {
        match lock.try_lock_shared() {
            Ok(()) => return Some(lock),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // A file that cannot be removed stays, and is ignored as before.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether this is the name of a temporary file; undo copies have a hyphen after the prefix and are not.
fn is_temporary(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [&str; 4] = [".weigh-short", ".weigh-undo-abc", ".weigh-abcdefghi", "weigh-abcdefgh"];

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn only_files_of_killed_runs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in OTHERS.iter().chain(&[".weigh-aB3dEfg8"]) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join(".weigh-folder01")).unwrap();
        assert!(claim(folder.path()).is_some());
        assert!(OTHERS.iter().all(|name| folder.path().join(name).exists()));
        assert_eq!(count(folder.path()), OTHERS.len() + 1);
    }

    #[test]
    fn the_files_of_a_running_process_stay() {
        let folder = tempfile::tempdir().unwrap();
        let running = claim(folder.path());
        fs::write(folder.path().join(".weigh-aB3dEfg8"), "x").unwrap();
        let second = claim(folder.path());
        assert!(second.is_some() && count(folder.path()) == 1);
        drop((running, second));
        claim(folder.path());
        assert_eq!(count(folder.path()), 0);
    }

    #[test]
    fn waiting_for_a_locked_folder_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let other = File::open(folder.path()).unwrap();
        other.lock().unwrap();
        assert!(claim(folder.path()).is_none());
    }
}
