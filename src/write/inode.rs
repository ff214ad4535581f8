//! Inode metadata: identity, owner and permissions of a file.

use std::fs::{File, Metadata};
use std::io;
use std::time::UNIX_EPOCH;

/// Inode metadata. On systems without owners and inode numbers, everything belongs to the caller and all numbers are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode {
    /// The device number.
    pub(crate) device: u64,
    /// The inode number on the device.
    pub(crate) number: u64,
    /// The owner's user ID.
    pub(crate) owner: u32,
    /// The permission bits.
    pub(crate) mode: u32,
    /// The number of hard links.
    pub(crate) links: u64,
}

impl Inode {
    pub(crate) fn from_metadata(found: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: found.dev(), number: found.ino(), owner: found.uid(), mode: found.mode() & 0o7777, links: found.nlink() }
    }
}

/// Returns the effective user ID.
pub(crate) fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns the birth time in nanoseconds since 1970; 0 if the file system does not record it.
pub(crate) fn birth_time(found: &Metadata) -> u64 {
    let since = found.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// Copies owner, group and permissions of the replaced file to a new one that only the caller can open so far. Returns what could not be
/// copied. A group that could not be copied gets no permissions.
///
/// # Errors
/// The permissions cannot be set.
pub(crate) fn copy_ownership(old: &Metadata, new: &File) -> io::Result<Vec<String>> {
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
    fn mode_owner_and_group_are_copied() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();
        // Only root can change owners; for others, owner and group are equal anyway.
        let _ = chown(&old, Some(65_533), Some(65_532));
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        let old = fs::metadata(&old).unwrap();
        assert!(copy_ownership(&old, &File::open(&new).unwrap()).unwrap().is_empty());
        let new = fs::metadata(&new).unwrap();
        assert_eq!((new.uid(), new.gid(), new.mode()), (old.uid(), old.gid(), old.mode()));
    }
}
