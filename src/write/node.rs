//! Which file it is, whose, and who may write it: what only the system's file tables know.

use std::fs::{File, Metadata};
use std::io;
use std::time::UNIX_EPOCH;

/// A file as the system knows it. Where the system has no owners and no file numbers, everything is the caller's, and all numbers are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    /// The device that the file is on.
    pub(crate) device: u64,
    /// The file's number on the device (inode).
    pub(crate) number: u64,
    /// The owner's user number.
    pub(crate) owner: u32,
    /// The permission bits.
    pub(crate) mode: u32,
    /// How many names the file has (hard links).
    pub(crate) links: u64,
}

impl Node {
    pub(crate) fn of(found: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: found.dev(), number: found.ino(), owner: found.uid(), mode: found.mode() & 0o7777, links: found.nlink() }
    }
}

/// The user that the process acts for.
pub(crate) fn caller() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// When the file was made, in nanoseconds since 1970; 0 where the file system does not keep it.
pub(crate) fn born(found: &Metadata) -> u64 {
    let since = found.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// Gives a new file, which only the caller can open so far, the owner, group and permissions of the file that it is to replace. Returns
/// what could not be kept. A group that could not be kept gets no permissions.
///
/// # Errors
/// The system refuses the permissions.
pub(crate) fn hand_over(old: &Metadata, new: &File) -> io::Result<Vec<String>> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let made = new.metadata()?;
    let mut mode = old.mode() & 0o7777;
    let mut lost = Vec::new();
    if made.uid() != old.uid() && fchown(new, Some(old.uid()), None).is_err() {
        lost.push(format!("the owner (user {}) could not be kept: the new file belongs to user {}", old.uid(), made.uid()));
        mode &= !0o4000;
    }
    if made.gid() != old.gid() && fchown(new, None, Some(old.gid())).is_err() {
        lost.push(format!("the group ({}) could not be kept: the new file's group ({}) has no permissions", old.gid(), made.gid()));
        mode &= !0o2070;
    }
    new.set_permissions(std::fs::Permissions::from_mode(mode))?;
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    #[test]
    fn mode_owner_and_group_are_handed_over() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();
        // Only root can give files away; for others, owner and group are the same anyway.
        let _ = chown(&old, Some(65_533), Some(65_532));
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        let old = fs::metadata(&old).unwrap();
        assert!(hand_over(&old, &File::open(&new).unwrap()).unwrap().is_empty());
        let new = fs::metadata(&new).unwrap();
        assert_eq!((new.uid(), new.gid(), new.mode()), (old.uid(), old.gid(), old.mode()));
    }
}
