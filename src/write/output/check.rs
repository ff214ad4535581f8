//! Checks of targets before anything is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::{Error, Hint, Result};
use crate::source::file::{parent, same_file};
use crate::source::place;
use crate::write::output::{Target, folder_of_temporary};

/// Checks a file to be written later: it does not exist (unless `force`), is not an input, and its folder, if it is on disk, exists.
///
/// # Errors
/// A check fails.
pub fn check(path: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    check_name(path, force, inputs)?;
    check_parent(path)
}

/// Checks that the folder of a file or folder to be written exists, if it is on disk: a mistyped path must not become a tree of folders.
///
/// # Errors
/// It does not.
pub fn check_parent(path: &Path) -> Result<()> {
    let folder = parent(path);
    if place::is_remote(path) || folder.is_dir() {
        return Ok(());
    }
    Err(Error::argument("the output folder does not exist").in_file(folder).hint("create it first, or check the path"))
}

/// Checks a target's path: nothing exists there (unless `force`), and it is not an input, device or special file.
///
/// # Errors
/// A check fails.
pub fn check_name(target: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    if target.file_name().is_none() {
        return Err(Error::argument("the output path has no file name").in_file(target));
    }
    if place::is_remote(target) {
        return check_address(target, force, inputs);
    }
    if let Some(system) = system_folder(target) {
        let message = format!("cannot write to {system}, which holds devices and other special files");
        return Err(Error::argument(message).in_file(target).hint("write to a file, then copy it there"));
    }
    let Ok(link) = fs::symlink_metadata(target) else { return Ok(()) };
    if let Ok(found) = fs::metadata(target) {
        if let Some(input) = inputs.iter().find(|input| fs::metadata(input).is_ok_and(|input| same_file(&input, &found))) {
            let message = format!("the output is also an input ({})", input.display());
            return Err(Error::argument(message).in_file(target).hint("write to another name"));
        }
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "a device, pipe or socket" };
            return Err(Error::argument(format!("the output is {what}, not a regular file")).in_file(target));
        }
    }
    if force || !(link.is_file() || link.is_symlink()) { Ok(()) } else { Err(exists(target)) }
}

/// Checks a target in a bucket.
fn check_address(target: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    place::check_scheme(target)?;
    if inputs.iter().any(|input| input == target) {
        return Err(Error::argument("the output is also an input").in_file(target).hint("write to another name"));
    }
    if !force && place::has_file(target)? { Err(exists(target)) } else { Ok(()) }
}

/// Returns the system folder that a path is in: it holds devices and open files, which must not be replaced.
fn system_folder(path: &Path) -> Option<&'static str> {
    let folder = parent(path).canonicalize().ok()?;
    let inside = |system: &&str| folder.starts_with(system) && !folder.starts_with("/dev/shm");
    ["/dev", "/proc", "/sys"].into_iter().find(inside)
}

pub(super) fn exists(target: &Path) -> Error {
    Error::argument("the output already exists").in_file(target).hint(Hint::Replace)
}

/// Checks that the disks have enough space for the targets; for those in a bucket, for two at a time: one is written while another is
/// uploaded.
pub(super) fn space(targets: &[Target]) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (mut uploaded, mut on_disk): (Vec<&Target>, Vec<&Target>) = targets.iter().partition(|target| place::is_remote(&target.path));
    uploaded.sort_by_key(|target| std::cmp::Reverse(target.bytes));
    on_disk.extend(uploaded.into_iter().take(2));
    let mut of_disk: Vec<(u64, PathBuf, u64)> = Vec::new();
    for target in on_disk {
        let folder = folder_of_temporary(&target.path);
        let device = fs::metadata(&folder).map_err(|error| Error::io("cannot examine", &folder, error))?.dev();
        match of_disk.iter_mut().find(|(other, ..)| *other == device) {
            Some((.., needed)) => *needed = needed.saturating_add(target.bytes),
            None => of_disk.push((device, folder, target.bytes)),
        }
    }
    for (_, folder, needed) in of_disk {
        let disk = rustix::fs::statvfs(&folder).map_err(|error| Error::io("cannot examine the disk of", &folder, error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed > free {
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::io(&format!("not enough disk space: {needed} bytes needed, {free} bytes free"), &folder, source));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_files_are_never_overwritten_even_with_force() {
        for name in ["/dev/stdout", "/dev/null", "/dev/fd/1", "/proc/self/fd/1", "/proc/self/out.gguf", "/dev/new", "/sys/new"] {
            if !parent(Path::new(name)).is_dir() {
                continue;
            }
            let error = check_name(Path::new(name), true, &[]).unwrap_err();
            assert!(error.message().contains("special files"), "{name}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let [fifo, link] = ["fifo", "link"].map(|name| folder.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [&fifo, &link] {
            assert!(check_name(path, true, &[]).unwrap_err().message().contains("a device, pipe or socket"));
        }
    }

    #[test]
    fn a_folder_is_neither_replaced_nor_created() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path(), true, &[]).unwrap_err().message().contains("is a folder"));
        let error = check(&folder.path().join("missing/a.html"), true, &[]).unwrap_err();
        assert!(error.path().is_some_and(|path| path.ends_with("missing")), "{error}");
        check(&folder.path().join("a.html"), false, &[]).unwrap();
    }
}
