//! Temporary files of runs that were killed (SIGKILL, a crash of the machine): the next run that writes into the folder removes them.
//!
//! Every run locks the folders that it writes into, shared with others, for as long as it may have temporary files there. Whoever gets
//! such a lock for itself alone knows that no run is left that the temporary files could belong to.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// How the name of a temporary file starts. Short: a target with the longest possible name must not fail.
pub(super) const PREFIX: &str = ".weigh-";

/// How the name of an old file of a set starts while the new set takes its names: it is removed by nobody but the run itself.
pub(super) const OLD_PREFIX: &str = ".weigh-old-";

/// How many letters and digits come after it.
pub(super) const RANDOM: usize = 8;

/// How often, and after how long, a lock is tried again that somebody holds alone: to remove files, which takes no time.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Removes what killed runs left in a folder, and holds the folder's lock until dropped. Where the system has no such locks, or somebody
/// else holds the folder for long, nothing is removed and nothing is held.
pub(super) fn claim(folder: &Path) -> Option<File> {
    let lock = File::open(folder).ok()?;
    if lock.try_lock().is_ok() {
        clear(folder);
        // Given back, so that the next lock is one like everybody's.
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
            // One that cannot be removed stays, and is ignored as before.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Copies of the starts of files that were being changed have a hyphen in the rest of their names: they are no temporaries.
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
    fn what_a_killed_run_left_is_removed_and_nothing_else() {
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
    fn the_files_of_a_run_that_goes_on_stay() {
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
    fn a_folder_that_somebody_else_locks_is_no_reason_to_wait_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let other = File::open(folder.path()).unwrap();
        other.lock().unwrap();
        assert!(claim(folder.path()).is_none());
    }
}
