//! The files get their names, all of them or none.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::base::{Error, Result};
use crate::source::file::{parent, sync_folder};
use crate::write::output::namelock::NameLock;
use crate::write::output::{Output, check, folders};
use crate::write::{signals, stale};

impl Output {
    /// Waits until no other run gives files in these folders their names, and keeps others from it until this is dropped or committed.
    /// [`Output::commit`] does so by itself; before it, this is for those who look at what is there first.
    ///
    /// # Errors
    /// Another run does not come to an end; or the system refuses.
    pub fn lock_names(&mut self) -> Result<()> {
        if self.name_locks.is_empty() {
            self.name_locks =
                folders(&self.targets).into_iter().filter_map(|folder| NameLock::take(folder).transpose()).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Gives the files their names, in the order of the targets (so an index goes last), and syncs the folders.
    ///
    /// # Errors
    /// A file was not sealed; a target has appeared meanwhile; the system refuses. Then files that were new are taken back, and old ones
    /// that had left their names for a set get them back.
    pub fn commit(mut self) -> Result<()> {
        if let Some(at) = self.written.iter().position(|temporary| !temporary.as_ref().is_some_and(|temporary| temporary.sealed)) {
            return Err(Error::argument("expected the file to be written in full, found it unfinished").in_file(&self.targets[at].path));
        }
        if self.targets.len() + self.superseded.len() > 1 {
            self.lock_names()?;
        }
        let (paths, guards): (Vec<_>, Vec<_>) = self.written.drain(..).flatten().map(|file| (file.path, file.guard)).unzip();
        let held = signals::hold(); // a signal comes before all names or after them
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let renamed = self.put_aside(&mut old).and_then(|()| self.rename_all(paths, &mut new));
        if renamed.is_err() {
            for path in new.into_iter().rev() {
                let _ = fs::remove_file(path);
            }
            // Put aside from the last to the first: the last comes back last.
            for (aside, path) in old.into_iter().rev() {
                if let Err(error) = aside.persist(path) {
                    let _ = error.path.keep(); // under the other name rather than not at all
                }
            }
            return renamed;
        }
        drop(old); // removes them
        drop(held);
        drop(guards);
        self.sync_folders()?;
        self.folders.clear(); // they stay
        Ok(())
    }

    /// Takes their names from the old files of a set, the last first; `old` gets where they are now, and their names.
    fn put_aside(&self, old: &mut Vec<(TempPath, PathBuf)>) -> Result<()> {
        if !self.force || self.targets.len() + self.superseded.len() < 2 {
            return Ok(());
        }
        let all = self.superseded.iter().chain(self.targets.iter().map(|target| &target.path));
        for path in all.rev().filter(|path| fs::symlink_metadata(path).is_ok()) {
            let aside = aside(path)?;
            note("put aside", path);
            fs::rename(path, &aside).map_err(|error| Error::io("cannot rename the old file", path, error))?;
            old.push((aside, path.clone()));
        }
        // No new name gets onto the disk before the old ones are gone from it.
        if old.is_empty() { Ok(()) } else { self.sync_folders() }
    }

    /// Gives the new files their names; `new` gets those that were not there before.
    fn rename_all(&self, paths: Vec<TempPath>, new: &mut Vec<PathBuf>) -> Result<()> {
        for (target, path) in self.targets.iter().zip(paths) {
            let fresh = fs::symlink_metadata(&target.path).is_err();
            note("name", &target.path);
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
        folders.extend(self.folders.iter().map(|folder| parent(folder)));
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            note("sync", folder);
            sync_folder(folder).map_err(|error| Error::io("cannot sync", folder, error))?;
        }
        Ok(())
    }
}

/// Where an old file goes while a new set takes its name. It is no temporary file: if the run is killed, it stays until somebody who knows
/// better takes it back or removes it.
fn aside(path: &Path) -> Result<TempPath> {
    // With the old name in it, unless that makes it too long.
    let name = path.file_name().filter(|name| name.len() < 200).unwrap_or_default();
    let mut suffix = OsString::from("-");
    suffix.push(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(stale::OLD_PREFIX).rand_bytes(stale::RANDOM).suffix(&suffix);
    let file = builder.tempfile_in(parent(path)).map_err(|error| Error::io("cannot create a file for", path, error))?;
    Ok(file.into_temp_path())
}

/// Takes note of a step that is about to be taken, for the tests: that folders are synced cannot be seen from outside.
fn note(step: &str, path: &Path) {
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

    /// The steps of writing files `targets` into `folder` in the place of old ones of these names and of `superseded`.
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
    fn names_and_syncs_come_in_an_order_that_no_crash_makes_a_mixture_of() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("f");
        // A new folder is synced with the one that it is in.
        let parent = folder.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(steps(&at, &["one", "index"], &[], false), ["name one", "name index", &format!("sync {parent}"), "sync f"]);
        // The last leaves first: a set without its index is none. The new names come after the old ones have gone from the disk.
        for name in ["2-of-2", "old.index"] {
            fs::write(at.join(name), "old").unwrap();
        }
        let found = steps(&at, &["one", "index"], &["2-of-2", "old.index"], true);
        let wanted =
            ["put aside index", "put aside one", "put aside old.index", "put aside 2-of-2", "sync f", "name one", "name index", "sync f"];
        assert_eq!(found, wanted);
        // One file takes the place of another at once.
        assert_eq!(steps(&at, &["one"], &[], true), ["name one", "sync f"]);
        let mut left: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["index", "one"]);
    }
}
