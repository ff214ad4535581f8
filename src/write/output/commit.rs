//! The commit step: renames all output files into place, or none.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::base::{Error, Result};
use crate::source::file::{parent, sync_folder};
use crate::write::output::namelock::NameLock;
use crate::write::output::{Output, Written, check, folders};
use crate::write::{signals, stale};

impl Output {
    /// Waits for other runs that rename files in these folders, and keeps others from doing so until dropped or committed.
    /// [`Output::commit`] does this itself; call it before inspecting existing files. A bucket has no locks.
    ///
    /// # Errors
    /// Another run does not finish, or a system call fails.
    pub fn lock_names(&mut self) -> Result<()> {
        if self.name_locks.is_empty() && !self.is_in_bucket() {
            self.name_locks =
                folders(&self.targets).iter().filter_map(|folder| NameLock::take(folder).transpose()).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Renames the files into place in the order of the targets (so an index comes last) and syncs the folders.
    ///
    /// # Errors
    /// A file was not sealed, a target has appeared meanwhile, or a system call fails. New files are then removed again, and the old files
    /// of a set restored.
    pub fn commit(mut self) -> Result<()> {
        if self.is_in_bucket() {
            return self.complete_uploads();
        }
        (0..self.targets.len()).try_for_each(|index| self.sealed(index).map(drop))?;
        if self.targets.len() + self.superseded.len() > 1 {
            self.lock_names()?;
        }
        let on_disk = self.written.drain(..).filter_map(|written| match written {
            Some(Written::OnDisk(file)) => Some((file.path, file.guard)),
            _ => None,
        });
        let (paths, guards): (Vec<_>, Vec<_>) = on_disk.unzip();
        let held = signals::hold(); // signals are handled before or after all renames
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let renamed = self.put_aside(&mut old).and_then(|()| self.rename_all(paths, &mut new));
        if renamed.is_err() {
            for path in new.into_iter().rev() {
                let _ = fs::remove_file(path);
            }
            // Restored in reverse order, so that the index comes back last.
            for (aside, path) in old.into_iter().rev() {
                if let Err(error) = aside.persist(path) {
                    let _ = error.path.keep(); // better under the other name than lost
                }
            }
            return renamed;
        }
        drop(old); // removes the old files
        drop(held);
        drop(guards);
        self.sync_folders()?;
        self.folders.clear(); // the new folders stay
        Ok(())
    }

    /// Renames the old files of a set away, last first, and records their temporary and original paths in `old`.
    fn put_aside(&self, old: &mut Vec<(TempPath, PathBuf)>) -> Result<()> {
        if !self.force || self.targets.len() + self.superseded.len() < 2 {
            return Ok(());
        }
        let all = self.superseded.iter().chain(self.targets.iter().map(|target| &target.path));
        for path in all.rev().filter(|path| fs::symlink_metadata(path).is_ok()) {
            let aside = aside(path)?;
            record_step("put aside", path);
            fs::rename(path, &aside).map_err(|error| Error::io("cannot rename the old file", path, error))?;
            old.push((aside, path.clone()));
        }
        // The old files must be gone from disk before a new one appears.
        if old.is_empty() { Ok(()) } else { self.sync_folders() }
    }

    /// Renames the new files into place and records in `new` those that did not replace a file.
    fn rename_all(&self, paths: Vec<TempPath>, new: &mut Vec<PathBuf>) -> Result<()> {
        for (target, path) in self.targets.iter().zip(paths) {
            let fresh = fs::symlink_metadata(&target.path).is_err();
            record_step("name", &target.path);
            let renamed = if self.force { path.persist(&target.path) } else { path.persist_noclobber(&target.path) };
            renamed.map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => check::exists(&target.path),
                _ => Error::io("cannot rename the new file to", &target.path, error.error),
            })?;
            if fresh {
                new.push(target.path.clone());
            }
        }
        Ok(())
    }

    fn sync_folders(&self) -> Result<()> {
        let mut folders = folders(&self.targets);
        folders.extend(self.folders.iter().map(|folder| parent(folder).to_path_buf()));
        folders.sort_unstable();
        folders.dedup();
        for folder in &folders {
            record_step("sync", folder);
            sync_folder(folder).map_err(|error| Error::io("cannot sync", folder, error))?;
        }
        Ok(())
    }
}

/// Returns the path to which an old file is renamed while a new set replaces it. It is not a temporary file: if the run is killed, it stays
/// for the user to restore or remove.
fn aside(path: &Path) -> Result<TempPath> {
    // Contains the old name, unless that makes it too long.
    let name = path.file_name().filter(|name| name.len() < 200).unwrap_or_default();
    let mut suffix = OsString::from("-");
    suffix.push(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(stale::OLD_PREFIX).rand_bytes(stale::RANDOM).suffix(&suffix);
    let file = builder.tempfile_in(parent(path)).map_err(|error| Error::io("cannot create a file for", path, error))?;
    Ok(file.into_temp_path())
}

/// Records a step for the tests: syncing folders is not observable from outside.
fn record_step(step: &str, path: &Path) {
    #[cfg(test)]
    tests::STEPS.with_borrow_mut(|steps| steps.push(format!("{step} {}", path.file_name().unwrap_or_default().display())));
    #[cfg(not(test))]
    let _ = (step, path);
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::write::output::Target;

    thread_local! {
        pub(super) static STEPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Returns the steps of writing `targets` to `folder`, replacing files with these names and `superseded`.
    fn steps(folder: &Path, targets: &[&str], superseded: &[&str], force: bool) -> Vec<String> {
        let path = |name: &&str| folder.join(name);
        let files = targets.iter().map(|name| Target { path: path(name), bytes: 1 }).collect();
        let mut output = Output::begin(files, force, &[]).unwrap();
        (0..targets.len()).for_each(|index| output.write(index, b"1").unwrap());
        output.supersede(superseded.iter().map(path).collect());
        STEPS.take();
        output.commit().unwrap();
        STEPS.take()
    }

    #[test]
    fn no_crash_can_leave_a_mixture_of_old_and_new_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("f");
        // A new folder is synced together with its parent.
        let parent = folder.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(steps(&at, &["one", "index"], &[], false), ["name one", "name index", &format!("sync {parent}"), "sync f"]);
        // The index leaves first, because a set without its index is not used. New files appear after the old ones are gone from disk.
        for name in ["2-of-2", "old.index"] {
            fs::write(at.join(name), "old").unwrap();
        }
        let found = steps(&at, &["one", "index"], &["2-of-2", "old.index"], true);
        let wanted =
            ["put aside index", "put aside one", "put aside old.index", "put aside 2-of-2", "sync f", "name one", "name index", "sync f"];
        assert_eq!(found, wanted);
        // A single file is replaced directly.
        assert_eq!(steps(&at, &["one"], &[], true), ["name one", "sync f"]);
        let mut left: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["index", "one"]);
    }
}
