//! Atomic output: files are written under temporary names in the target folder, synced, and renamed into place.
//!
//! A single file replaces an old one directly. For several files, the old ones are renamed away first, the last of them first, and then the
//! new ones renamed into place, the last of them last. At any moment, and after a kill, there are the old files, the new ones, or too few,
//! but never a mixture. Runs that write the same set take turns at renaming.
//!
//! Files of a bucket are written under temporary names on disk, uploaded one after the other in the background, and become visible in the
//! same order (`uploads`).
//!
//! Problems with the targets (they exist, they are inputs, the disk is full) are reported before anything is written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::{NamedTempFile, TempPath};

use crate::base::{Error, Result};
use crate::source::file::parent;
use crate::source::remote::Upload;
use crate::source::{self, Source, place};
use crate::write::signals::Guard;
use crate::write::stale;

mod check;
mod commit;
mod file;
mod namelock;
mod uploads;

pub use check::{check, check_name, check_parent};
pub use file::OutFile;
#[cfg(feature = "catalog")]
pub(crate) use namelock::NameLock;

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path of the finished file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Writes one file from bytes in memory.
///
/// # Errors
/// The output exists, is an input or cannot be created there; or it cannot be written, and nothing is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8], force: bool, inputs: &[PathBuf]) -> Result<()> {
    check_parent(path)?;
    let mut output = Output::begin(vec![Target { path: path.to_path_buf(), bytes: bytes.len() as u64 }], force, inputs)?;
    output.write(0, bytes)?;
    output.commit()
}

/// One or more files that appear together: each has a temporary name until [`Output::commit`].
///
/// If dropped before that, it leaves nothing behind, and existing files are untouched.
#[derive(Debug)]
pub struct Output {
    force: bool,
    targets: Vec<Target>,
    /// In the order of `targets`.
    written: Vec<Option<Written>>,
    /// Files with other names that the targets replace.
    superseded: Vec<PathBuf>,
    /// Folders created for the targets, outermost first; removed again unless committed.
    folders: Vec<PathBuf>,
    /// Whether files are read back before they are renamed into place.
    read_back: bool,
    /// Locks on the targets' folders that protect the temporary files from cleanup by other runs.
    locks: Vec<File>,
    /// Rename locks of the folders, held during the commit.
    name_locks: Vec<namelock::NameLock>,
}

/// A file that is not visible yet.
#[derive(Debug)]
enum Written {
    OnDisk(Temporary),
    InBucket(Upload),
}

/// A file under its temporary name. Dropping it removes the file.
#[derive(Debug)]
struct Temporary {
    path: TempPath,
    /// Removes the file if a signal ends the process.
    guard: Guard,
    sealed: bool,
}

impl Output {
    /// Checks, before anything is written, that no target exists (unless `force`) or is one of the `inputs` (also through links), that the
    /// folders exist or can be created, and that the disk has enough space. Removes temporary files of killed runs from the folders.
    ///
    /// # Errors
    /// A check fails; nothing was written.
    pub fn begin(targets: Vec<Target>, force: bool, inputs: &[PathBuf]) -> Result<Self> {
        for target in &targets {
            check_name(&target.path, force, inputs)?;
        }
        let mut output = Self {
            force,
            written: targets.iter().map(|_| None).collect(),
            targets,
            superseded: Vec::new(),
            folders: Vec::new(),
            read_back: false,
            locks: Vec::new(),
            name_locks: Vec::new(),
        };
        output.make_folders()?;
        output.locks = folders(&output.targets).iter().filter_map(|folder| stale::claim(folder)).collect();
        check::space(&output.targets)?;
        Ok(output)
    }

    /// Sets whether files created from here on are read back and compared before they are renamed into place.
    pub fn read_back(&mut self, wanted: bool) {
        self.read_back = wanted;
    }

    /// Adds files to remove when the targets appear: readers would otherwise take them for parts of the same model.
    pub fn supersede(&mut self, files: Vec<PathBuf>) {
        self.superseded = files;
    }

    /// Returns the targets, in the order in which they will appear.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Starts the file of `targets()[index]` under a temporary name.
    ///
    /// # Errors
    /// A system call fails, or the index is out of range.
    pub fn create(&mut self, index: usize) -> Result<OutFile> {
        self.create_with_mode(index, 0o666)
    }

    /// Like [`Output::create`], with these permissions less the umask.
    ///
    /// # Errors
    /// As for [`Output::create`].
    pub fn create_with_mode(&mut self, index: usize, mode: u32) -> Result<OutFile> {
        let (target, slot) = match (self.targets.get(index), self.written.get_mut(index)) {
            (Some(target), Some(slot)) => (target, slot),
            _ => return Err(Error::argument(format!("expected one of {} output files, found number {index}", self.targets.len()))),
        };
        let ((file, path), guard) = Guard::create(|| {
            let (file, path) = temporary(&target.path, mode)?.into_parts();
            let name = path.to_path_buf();
            Ok(((file, path), name))
        })?;
        *slot = Some(Written::OnDisk(Temporary { path, guard, sealed: false }));
        Ok(OutFile::new(file, index, &target.path, target.bytes, self.read_back))
    }

    /// Finishes a file: checks its length, syncs it, and compares it if it is [read back](Output::read_back).
    ///
    /// # Errors
    /// Bytes are missing or differ from those written, or a system call fails.
    pub fn seal(&mut self, file: OutFile) -> Result<()> {
        let index = file.index;
        file.finish()?;
        if let Some(Some(Written::OnDisk(temporary))) = self.written.get_mut(index) {
            temporary.sealed = true;
        }
        Ok(())
    }

    /// Writes a small file at once: [`Output::create`], the bytes, [`Output::seal`].
    ///
    /// # Errors
    /// As for those.
    pub fn write(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(index)?;
        file.append(bytes)?;
        self.seal(file)
    }

    /// Opens a sealed file, still under its temporary name, for reading.
    ///
    /// # Errors
    /// It is not sealed, is already [uploaded](Output::upload), or cannot be opened.
    pub fn open_written(&self, index: usize) -> Result<Arc<dyn Source>> {
        source::open(&self.sealed(index)?.path)
    }

    /// Returns a sealed file that is on disk.
    fn sealed(&self, index: usize) -> Result<&Temporary> {
        match self.written.get(index) {
            Some(Some(Written::OnDisk(temporary))) if temporary.sealed => Ok(temporary),
            _ => Err(Error::argument(format!("output file {index} is not written in full"))),
        }
    }

    fn make_folders(&mut self) -> Result<()> {
        for i in 0..self.targets.len() {
            if place::is_remote(&self.targets[i].path) {
                continue; // a bucket has no folders, only names with slashes
            }
            let mut missing: Vec<PathBuf> = Vec::new();
            let mut folder = parent(&self.targets[i].path);
            while !folder.is_dir() {
                missing.push(folder.to_path_buf());
                folder = parent(folder);
                if missing.last().is_some_and(|last| last == folder) {
                    break;
                }
            }
            for folder in missing.into_iter().rev() {
                match fs::create_dir(&folder) {
                    Ok(()) => self.folders.push(folder),
                    // Another run was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                    Err(error) => return Err(Error::io("cannot create the folder", &folder, error)),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Files go before the folders, which must be empty, and before the folder locks, or another run could clean them up.
        self.written.clear();
        self.name_locks.clear();
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Creates a file under a temporary name for `target`.
fn temporary(target: &Path, mode: u32) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(stale::PREFIX).rand_bytes(stale::RANDOM);
    builder.permissions(fs::Permissions::from_mode(mode)); // less the umask
    builder.tempfile_in(folder_of_temporary(target)).map_err(|error| Error::io("cannot create a file for", target, error))
}

/// Returns the folder in which a target is written before it appears: its own; for one in a bucket, that for temporary files.
fn folder_of_temporary(target: &Path) -> PathBuf {
    if place::is_remote(target) { std::env::temp_dir() } else { parent(target).to_path_buf() }
}

/// Returns the distinct folders in which the targets are written.
fn folders(targets: &[Target]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = targets.iter().map(|target| folder_of_temporary(&target.path)).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::write_all_at;

    fn target(path: PathBuf, bytes: u64) -> Target {
        Target { path, bytes }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_together_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("new/model");
        let targets = vec![target(inner.join("a"), 5), target(inner.join("b"), 2)];
        let mut output = Output::begin(targets, false, &[]).unwrap();
        let mut a = output.create(0).unwrap();
        a.append(b"xy").unwrap();
        a.pad_to(5).unwrap();
        output.seal(a).unwrap();
        output.write(1, b"ok").unwrap();
        assert!(!inner.join("a").exists());
        output.commit().unwrap();
        assert_eq!(fs::read(inner.join("a")).unwrap(), b"xy\0\0\0");
        assert_eq!(names(&inner), ["a", "b"]);
    }

    #[test]
    fn bytes_can_be_written_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut output = Output::begin(vec![target(path.clone(), 6)], false, &[]).unwrap();
        let mut file = output.create(0).unwrap();
        file.append(b"h").unwrap();
        assert!(file.write_at(1, b"x").is_err(), "not reserved");
        file.reserve().unwrap();
        file.write_at(4, b"yz").unwrap();
        file.write_at(2, b"x").unwrap();
        assert!(file.write_at(5, b"12").is_err(), "past the end");
        fs::write(folder.path().join("b"), "..12").unwrap();
        let other = source::open(&folder.path().join("b")).unwrap();
        file.copy_at(3, &*other, 2, b"1").unwrap();
        assert!(file.copy_at(5, &*other, 2, b"12").is_err(), "past the end");
        file.sync_so_far().unwrap();
        output.seal(file).unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"h\0x1yz");
    }

    #[test]
    fn bytes_that_change_before_the_rename_are_found() {
        let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let path = folder.path().join("a");
        fs::write(beside.path(), "other").unwrap();
        let other = source::open(beside.path()).unwrap();
        for fault in [false, true] {
            let mut output = Output::begin(vec![target(path.clone(), 9000)], true, &[]).unwrap();
            output.read_back(true);
            let mut file = output.create(0).unwrap();
            file.append(b"header").unwrap();
            file.reserve().unwrap();
            file.write_at(8000, &[7; 1000]).unwrap();
            file.copy_at(100, &*other, 0, b"other").unwrap();
            if fault {
                let temporary = names(folder.path()).into_iter().find(|name| name.starts_with(".weigh-")).unwrap();
                let written = File::options().write(true).open(folder.path().join(temporary)).unwrap();
                write_all_at(&written, b"8", 8500).unwrap();
                let error = output.seal(file).unwrap_err();
                assert_eq!((error.offset(), error.kind()), (Some(8000), crate::base::ErrorKind::Malformed));
                assert!(output.commit().is_err());
                assert_eq!(fs::read(&path).unwrap()[8500], 7, "the old file stays");
            } else {
                output.seal(file).unwrap();
                output.commit().unwrap();
            }
        }
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn dropped_output_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a");
        let mut output = Output::begin(vec![target(path, 4)], false, &[]).unwrap();
        let mut file = output.create(0).unwrap();
        file.append(b"12").unwrap();
        assert!(file.append(b"345").is_err(), "longer than announced");
        assert!(output.seal(file).is_err(), "shorter than announced");
        output.lock_names().unwrap(); // by a file in the new folder
        assert!(output.commit().is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn an_existing_file_is_refused_or_replaced_atomically() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let targets = vec![target(path.clone(), 3)];
        assert!(Output::begin(targets.clone(), false, &[]).unwrap_err().to_string().contains("already exists"));
        let mut output = Output::begin(targets, true, &[]).unwrap();
        output.write(0, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten_and_the_set_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        let mut output = Output::begin(vec![target(first, 1), target(second.clone(), 1)], false, &[]).unwrap();
        output.write(0, b"1").unwrap();
        output.write(1, b"2").unwrap();
        fs::write(&second, "mine").unwrap();
        assert!(output.commit().is_err());
        assert_eq!(fs::read(&second).unwrap(), b"mine");
        assert_eq!(names(folder.path()), ["b"]);
    }

    #[test]
    fn a_set_that_cannot_be_renamed_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, other] = ["a", "b", "c"].map(|name| folder.path().join(name));
        fs::write(&first, "old a").unwrap();
        fs::write(&other, "old c").unwrap();
        let begin = || {
            let mut output = Output::begin(vec![target(first.clone(), 1), target(second.clone(), 1)], true, &[]).unwrap();
            output.write(0, b"1").unwrap();
            output.write(1, b"2").unwrap();
            output.supersede(vec![other.clone()]);
            output
        };
        let output = begin();
        fs::create_dir_all(second.join("in the way")).unwrap();
        assert!(output.commit().is_err());
        assert_eq!((fs::read(&first).unwrap(), fs::read(&other).unwrap()), (b"old a".to_vec(), b"old c".to_vec()));
        assert_eq!(names(folder.path()), ["a", "b", "c"]);
        fs::remove_dir_all(&second).unwrap();
        begin().commit().unwrap();
        assert_eq!(fs::read(&first).unwrap(), b"1");
        assert_eq!(names(folder.path()), ["a", "b"]);
    }

    #[test]
    fn a_full_disk_is_reported_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let error = Output::begin(vec![target(folder.path().join("new/a"), u64::MAX / 2)], false, &[]).unwrap_err();
        assert!(error.to_string().contains("bytes free"), "{error}");
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn an_input_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let [input, hard, soft] = ["input", "hard", "soft"].map(|name| folder.path().join(name));
        fs::write(&input, "weights").unwrap();
        fs::hard_link(&input, &hard).unwrap();
        std::os::unix::fs::symlink(&input, &soft).unwrap();
        for path in [&input, &hard, &soft] {
            let error = Output::begin(vec![target(path.clone(), 1)], true, std::slice::from_ref(&input)).unwrap_err();
            assert!(error.to_string().contains("is also an input"), "{error}");
        }
    }

    #[test]
    fn long_names_work_and_the_umask_applies() {
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("x".repeat(255)), folder.path().join("plain"));
        let mut output = Output::begin(vec![target(path.clone(), 1)], false, &[]).unwrap();
        output.write(0, b"1").unwrap();
        output.commit().unwrap();
        fs::write(&plain, "1").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        let mut output = Output::begin(vec![target(path.clone(), 1)], true, &[]).unwrap();
        let private = output.create_with_mode(0, 0o400).unwrap().file().metadata().unwrap();
        assert_eq!(private.permissions().mode() & 0o777, 0o400, "from the first moment");
    }
}
