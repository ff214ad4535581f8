//! What is wrong with a target, before the first byte is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::{Error, Hint, Result};
use crate::source::file::{parent, same_file};
use crate::write::output::Target;

/// Checks a file that is to be written later: it is not there (unless `force`), is no input, and its folder is there.
///
/// # Errors
/// One of these is not so.
pub fn check(path: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    check_name(path, force, inputs)?;
    let folder = parent(path);
    if folder.is_dir() { Ok(()) } else { Err(Error::argument("expected a folder to write into, found none").in_file(folder)) }
}

/// Checks the name of a file that is to be written: it is not there (unless `force`), and is no input, device or special file.
///
/// # Errors
/// One of these is not so.
pub fn check_name(target: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    if target.file_name().is_none() {
        return Err(Error::argument("expected the name of a file to write, found none in the path").in_file(target));
    }
    if let Some(system) = system_folder(target) {
        let message = format!("expected a file to write, found something in {system}, which the system makes up");
        return Err(Error::argument(message).in_file(target).hint("write to a file, then copy it there"));
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

/// The folder of the system's own that a path lies in: what is there stands for devices and open files, and must not be replaced.
fn system_folder(path: &Path) -> Option<&'static str> {
    let folder = parent(path).canonicalize().ok()?;
    let inside = |system: &&str| folder.starts_with(system) && !folder.starts_with("/dev/shm");
    ["/dev", "/proc", "/sys"].into_iter().find(inside)
}

pub(super) fn exists(target: &Path) -> Error {
    Error::argument("expected a new file, found one that is there already").in_file(target).hint(Hint::Replace)
}

/// The disks of the targets have room for them.
pub(super) fn space(targets: &[Target]) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let mut of_disk: Vec<(u64, &Path, u64)> = Vec::new();
    for target in targets {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_makes_up_is_never_written_not_even_by_force() {
        for name in ["/dev/stdout", "/dev/null", "/dev/fd/1", "/proc/self/fd/1", "/proc/self/out.gguf", "/dev/new", "/sys/new"] {
            if !parent(Path::new(name)).is_dir() {
                continue;
            }
            let error = check_name(Path::new(name), true, &[]).unwrap_err();
            assert!(error.message().contains("which the system makes up"), "{name}: {error}");
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
    fn a_folder_is_neither_replaced_nor_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path(), true, &[]).unwrap_err().message().contains("found a folder"));
        let error = check(&folder.path().join("missing/a.html"), true, &[]).unwrap_err();
        assert!(error.path().is_some_and(|path| path.ends_with("missing")), "{error}");
        check(&folder.path().join("a.html"), false, &[]).unwrap();
    }
}
