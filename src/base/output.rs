//! Files written so that they appear whole or not at all: under a temporary name in the target's folder, synced, renamed.
//!
//! One file takes the place of an old one at once. Several cannot: so the old ones leave their names first, the last of them before the
//! others, and then the new ones get theirs, the last of them after the others. Whoever looks meanwhile, or after the run was killed, finds
//! the old files, the new ones, or too few; never some of each.
//!
//! What is wrong with the targets (they exist, they are inputs, the disk is too small) is said before the first byte.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::base::file::{parent, write_all_at};
use crate::base::readback::Written;
use crate::base::signals::{self, Guard};
use crate::base::{Error, Result, stale};

/// Bytes that are collected before they go to the system. Larger writes go there directly.
const BUFFER_BYTES: usize = 1 << 18;

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is to appear.
    pub path: PathBuf,
    /// How long it will be, in bytes.
    pub bytes: u64,
}

/// One or more files that appear together: each under a temporary name until [`Output::commit`].
///
/// Dropped before that, it leaves nothing behind, and whatever was there before is untouched.
#[derive(Debug)]
pub struct Output {
    force: bool,
    targets: Vec<Target>,
    /// In the order of `targets`.
    written: Vec<Option<Temporary>>,
    /// Files that the targets take the place of, though they have other names.
    superseded: Vec<PathBuf>,
    /// Folders that were made for the targets, outermost first; removed again if nothing is committed.
    folders: Vec<PathBuf>,
    /// Whether files are read back before they get their names.
    read_back: bool,
    /// The locks on the targets' folders, by which others know that the temporary files there are in use.
    locks: Vec<File>,
}

/// A file under its temporary name. Dropping it removes the file.
#[derive(Debug)]
struct Temporary {
    path: TempPath,
    /// Removes the file when a signal ends the process.
    guard: Guard,
    sealed: bool,
}

/// A file being written, front to back.
#[derive(Debug)]
pub struct OutFile {
    file: BufWriter<File>,
    index: usize,
    target: PathBuf,
    position: u64,
    bytes: u64,
    /// What was written, where it is to be read back.
    written: Option<Written>,
}

impl Output {
    /// Checks everything that can be checked before the first byte: no target is there already (unless `force`), none is one of
    /// the `inputs` (through links either), the folders are there or can be made, and the disk has room for all. Temporary files that
    /// a killed run left in the folders are removed.
    ///
    /// # Errors
    /// One of these is not so; nothing was written.
    pub fn begin(targets: Vec<Target>, force: bool, inputs: &[PathBuf]) -> Result<Self> {
        for target in &targets {
            check_target(&target.path, force, inputs)?;
        }
        let mut output =
            Self { force, targets, written: Vec::new(), superseded: Vec::new(), folders: Vec::new(), read_back: false, locks: Vec::new() };
        output.written.resize_with(output.targets.len(), || None);
        output.make_folders()?;
        output.locks = folders(&output.targets).into_iter().filter_map(stale::claim).collect();
        output.check_space()?;
        Ok(output)
    }

    /// Whether files that are created from here on are read back from the disk before they get their names, and compared with what was
    /// written.
    pub fn read_back(&mut self, wanted: bool) {
        self.read_back = wanted;
    }

    /// Files that go when the targets appear, as if they had the names of targets: a reader would take them for a part of the same model.
    pub fn supersede(&mut self, files: Vec<PathBuf>) {
        self.superseded = files;
    }

    /// The files, in the order in which they will appear.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Starts the file of `targets()[index]` under a temporary name.
    ///
    /// # Errors
    /// The system refuses; or the index is that of no target.
    pub fn create(&mut self, index: usize) -> Result<OutFile> {
        self.create_with_mode(index, 0o666)
    }

    /// [`Output::create`], with these permissions less the umask.
    ///
    /// # Errors
    /// As for that.
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
        *slot = Some(Temporary { path, guard, sealed: false });
        Ok(OutFile {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            index,
            target: target.path.clone(),
            position: 0,
            bytes: target.bytes,
            written: self.read_back.then(Written::default),
        })
    }

    /// Ends a file: it has its whole length, and its data is on the disk; where it is [read back](Output::read_back), it is what was
    /// written.
    ///
    /// # Errors
    /// Bytes are missing, or others than were written; or the system could not write them.
    pub fn seal(&mut self, file: OutFile) -> Result<()> {
        let OutFile { file, index, target, position, bytes, written } = file;
        if position != bytes {
            return Err(Error::argument(format!("expected {bytes} bytes to be written, found {position}")).in_file(&target));
        }
        let file = file.into_inner().map_err(|error| write_error(&target, error.into_error()))?;
        file.sync_all().map_err(|error| Error::io("cannot sync", &target, error))?;
        if let Some(written) = written {
            written.compare(&file, bytes, &target)?;
        }
        if let Some(Some(temporary)) = self.written.get_mut(index) {
            temporary.sealed = true;
        }
        Ok(())
    }

    /// Writes a whole small file: [`Output::create`], the bytes, [`Output::seal`].
    ///
    /// # Errors
    /// As for those.
    pub fn write(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(index)?;
        file.put(bytes)?;
        self.seal(file)
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
            let renamed = if self.force { path.persist(&target.path) } else { path.persist_noclobber(&target.path) };
            renamed.map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => exists(&target.path),
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
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("cannot sync", folder, error))?;
        }
        Ok(())
    }

    fn make_folders(&mut self) -> Result<()> {
        for i in 0..self.targets.len() {
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
                fs::create_dir(&folder).map_err(|error| Error::io("cannot create the folder", &folder, error))?;
                self.folders.push(folder);
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn check_space(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut of_disk: Vec<(u64, &Path, u64)> = Vec::new();
        for target in &self.targets {
            let folder = parent(&target.path);
            let device = fs::metadata(folder).map_err(|error| Error::io("cannot examine", folder, error))?.dev();
            match of_disk.iter_mut().find(|(other, ..)| *other == device) {
                Some((.., needed)) => *needed = needed.saturating_add(target.bytes),
                None => of_disk.push((device, folder, target.bytes)),
            }
        }
        for (_, folder, needed) in of_disk {
            let disk = rustix::fs::statvfs(folder).map_err(|error| Error::io("cannot examine the disk of", folder, error.into()))?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if needed > free {
                let source = io::Error::from(io::ErrorKind::StorageFull);
                return Err(Error::io(&format!("expected {needed} bytes of free space, found {free}"), folder, source));
            }
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn check_space(&self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.written.clear(); // removes the temporary files, so that the folders are empty
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

impl OutFile {
    /// The open file, for its owner and permissions.
    pub fn file(&self) -> &File {
        self.file.get_ref()
    }

    /// How many bytes were written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes bytes at the end.
    ///
    /// # Errors
    /// More than the length that was announced; or the system could not write them.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.position.saturating_add(bytes.len() as u64);
        if end > self.bytes {
            return Err(Error::argument(format!("expected {} bytes in all, found {end} or more", self.bytes)).in_file(&self.target));
        }
        self.note(self.position, bytes);
        self.file.write_all(bytes).map_err(|error| write_error(&self.target, error))?;
        self.position = end;
        Ok(())
    }

    /// Makes the file as long as was announced, the rest of it zeros: from here on bytes go to their places, in any order and from
    /// several threads ([`OutFile::write_at`]), and whoever writes them sees to it that none are forgotten.
    ///
    /// # Errors
    /// The system could not write what was put before, or refuses the length.
    pub fn reserve(&mut self) -> Result<()> {
        self.file.flush().map_err(|error| write_error(&self.target, error))?;
        self.file.get_ref().set_len(self.bytes).map_err(|error| write_error(&self.target, error))?;
        self.position = self.bytes;
        Ok(())
    }

    /// Writes bytes at a place of a file that is [`reserved`](OutFile::reserve).
    ///
    /// # Errors
    /// The place is not inside the reserved file; or the system could not write them.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.position) {
            let message = format!("expected a place in the {} bytes of the file, found {} bytes at {at}", self.position, bytes.len());
            return Err(Error::argument(message).in_file(&self.target));
        }
        self.note(at, bytes);
        write_all_at(self.file.get_ref(), bytes, at).map_err(|error| write_error(&self.target, error))
    }

    /// Copies `len` bytes from a place of another file to a place of a file that is [`reserved`](OutFile::reserve), inside the kernel
    /// where that can be done; `bytes` are the same bytes, for where it cannot.
    ///
    /// # Errors
    /// As for [`OutFile::write_at`].
    pub fn copy_at(&self, at: u64, source: &File, from: u64, bytes: &[u8]) -> Result<()> {
        let copied = if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.position) {
            copy_in_kernel(source, from, self.file.get_ref(), at, bytes.len())
        } else {
            0
        };
        self.note(at, bytes.get(..copied).unwrap_or_default());
        self.write_at(at.saturating_add(copied as u64), bytes.get(copied..).unwrap_or_default())
    }

    fn note(&self, at: u64, bytes: &[u8]) {
        if let Some(written) = &self.written {
            written.add(at, bytes);
        }
    }

    /// Brings what was written so far onto the disk. While other threads go on writing, this keeps the disk busy, so that little is left
    /// to wait for at the end.
    ///
    /// # Errors
    /// The system could not write it; it says so only once, so the file must be given up then.
    pub fn sync_so_far(&self) -> Result<()> {
        self.file.get_ref().sync_data().map_err(|error| Error::io("cannot sync", &self.target, error))
    }

    /// Writes zeros up to `position`.
    ///
    /// # Errors
    /// The position is passed already; or as for [`OutFile::put`].
    pub fn pad_to(&mut self, position: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let Some(mut left) = position.checked_sub(self.position) else {
            let message = format!("expected to be at byte {position} or before it, found to be at byte {}", self.position);
            return Err(Error::argument(message).in_file(&self.target));
        };
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            self.put(&ZEROS[..step as usize])?;
            left -= step;
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

/// A new file under a temporary name, beside `target`.
fn temporary(target: &Path, mode: u32) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(stale::PREFIX).rand_bytes(stale::RANDOM);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(Permissions::from_mode(mode)); // less the umask
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder.tempfile_in(parent(target)).map_err(|error| Error::io("cannot create a file for", target, error))
}

/// How many of `len` bytes the kernel copied. What it refuses (another disk, an old kernel) is for the caller to write.
#[cfg(target_os = "linux")]
fn copy_in_kernel(source: &File, mut from: u64, target: &File, mut at: u64, len: usize) -> usize {
    let mut copied = 0;
    while copied < len {
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut at), len - copied) {
            Ok(0) | Err(_) => break,
            Ok(more) => copied += more,
        }
    }
    copied
}

#[cfg(not(target_os = "linux"))]
fn copy_in_kernel(_: &File, _: u64, _: &File, _: u64, _: usize) -> usize {
    0
}

fn write_error(target: &Path, error: io::Error) -> Error {
    Error::io("cannot write", target, error)
}

fn exists(target: &Path) -> Error {
    Error::argument("expected a new file, found one that is there already").in_file(target).hint("--force replaces it")
}

/// The folders of the targets, each once.
fn folders(targets: &[Target]) -> Vec<&Path> {
    let mut folders: Vec<&Path> = targets.iter().map(|target| parent(&target.path)).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

fn check_target(target: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    if target.file_name().is_none() {
        return Err(Error::argument("expected the name of a file to write, found none in the path").in_file(target));
    }
    let Ok(link) = fs::symlink_metadata(target) else { return Ok(()) };
    if let Ok(found) = fs::metadata(target) {
        if let Some(input) = inputs.iter().find(|input| fs::metadata(input).is_ok_and(|input| same_file(&input, &found))) {
            let message = format!("expected an output that is no input, found the same file as {}", input.display());
            return Err(Error::argument(message).in_file(target).hint("write to another name"));
        }
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "a device, pipe or socket" };
            return Err(Error::argument(format!("expected a regular file to write, found {what}")).in_file(target));
        }
    }
    if force || !(link.is_file() || link.is_symlink()) { Ok(()) } else { Err(exists(target)) }
}

#[cfg(unix)]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_file(_: &Metadata, _: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

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
        a.put(b"xy").unwrap();
        a.pad_to(5).unwrap();
        output.seal(a).unwrap();
        output.write(1, b"ok").unwrap();
        assert!(!inner.join("a").exists());
        output.commit().unwrap();
        assert_eq!(fs::read(inner.join("a")).unwrap(), b"xy\0\0\0");
        assert_eq!(names(&inner), ["a", "b"]);
    }

    #[test]
    fn bytes_go_to_their_places_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut output = Output::begin(vec![target(path.clone(), 6)], false, &[]).unwrap();
        let mut file = output.create(0).unwrap();
        file.put(b"h").unwrap();
        assert!(file.write_at(1, b"x").is_err(), "not reserved");
        file.reserve().unwrap();
        file.write_at(4, b"yz").unwrap();
        file.write_at(2, b"x").unwrap();
        assert!(file.write_at(5, b"12").is_err(), "past the end");
        fs::write(folder.path().join("b"), "..12").unwrap();
        let other = File::open(folder.path().join("b")).unwrap();
        file.copy_at(3, &other, 2, b"1").unwrap();
        assert!(file.copy_at(5, &other, 2, b"12").is_err(), "past the end");
        file.sync_so_far().unwrap();
        output.seal(file).unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"h\0x1yz");
    }

    #[test]
    fn bytes_that_change_between_writing_and_naming_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for fault in [false, true] {
            let mut output = Output::begin(vec![target(path.clone(), 9000)], true, &[]).unwrap();
            output.read_back(true);
            let mut file = output.create(0).unwrap();
            file.put(b"header").unwrap();
            file.reserve().unwrap();
            file.write_at(8000, &[7; 1000]).unwrap();
            file.copy_at(100, file.file.get_ref(), 0, b"header").unwrap();
            if fault {
                write_all_at(file.file.get_ref(), b"8", 8500).unwrap();
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
    fn what_is_dropped_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a");
        let mut output = Output::begin(vec![target(path, 4)], false, &[]).unwrap();
        let mut file = output.create(0).unwrap();
        file.put(b"12").unwrap();
        assert!(file.put(b"345").is_err(), "longer than announced");
        assert!(output.seal(file).is_err(), "shorter than announced");
        assert!(output.commit().is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn an_old_file_is_refused_or_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let targets = vec![target(path.clone(), 3)];
        assert!(Output::begin(targets.clone(), false, &[]).unwrap_err().to_string().contains("there already"));
        let mut output = Output::begin(targets, true, &[]).unwrap();
        output.write(0, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten_and_the_set_is_taken_back() {
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
    fn a_set_that_cannot_be_named_leaves_the_old_one() {
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
    fn a_disk_that_is_too_small_is_told_before_the_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let error = Output::begin(vec![target(folder.path().join("new/a"), u64::MAX / 2)], false, &[]).unwrap_err();
        assert!(error.to_string().contains("bytes of free space"), "{error}");
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn an_input_is_never_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let [input, hard, soft] = ["input", "hard", "soft"].map(|name| folder.path().join(name));
        fs::write(&input, "weights").unwrap();
        fs::hard_link(&input, &hard).unwrap();
        std::os::unix::fs::symlink(&input, &soft).unwrap();
        for path in [&input, &hard, &soft] {
            let error = Output::begin(vec![target(path.clone(), 1)], true, std::slice::from_ref(&input)).unwrap_err();
            assert!(error.to_string().contains("an output that is no input"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn long_names_work_and_the_mode_follows_the_umask() {
        use std::os::unix::fs::PermissionsExt;
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
