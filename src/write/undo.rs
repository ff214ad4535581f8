//! Crash-safe overwriting of a file's header: it can always be undone, and a partly written header is never read as a model.
//!
//! First, the old and new bytes are written to an undo copy next to the file, `.weigh-undo-` and the inode number. Then the first bytes are
//! overwritten by a [`MARKER`] that no format uses, then the rest is written, then the first bytes; each step is synced before the next. So
//! the header is always the old one, the new one, or marked. Finally, the copy is removed.
//!
//! Readers check only for the marker, never for copies: they refuse a marked file and write nothing. [`recover`] restores the old bytes
//! from a trusted copy: a regular file for this very file, owned by the file's owner, who is the caller, and writable by nobody else.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::base::bytes::{Cursor, Endian};
use crate::base::{Error, Hint, Result};
use crate::source::file::{open_itself, parent, read_exact_at, sync_folder, write_all_at};
use crate::source::torn::{MARKER, is_marked, torn};
use crate::write::inode::{self, Inode};
use crate::write::lock::LockedFile;
use crate::write::{signals, stale};

/// Magic of a copy; the digit is its version.
const MAGIC: &[u8; 8] = b"weigh-u2";

/// Bytes of a copy before the old header: magic, digest, inode number, file size, birth time, header length.
const HEAD_BYTES: u64 = 8 + 32 + 4 * 8;

/// The outcome of [`recover`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// No change was interrupted.
    Nothing,
    /// The change was complete; the left-over copy was removed.
    Finished,
    /// The old header was restored.
    Undone,
}

/// Returns the reason why a file's header must not be overwritten in place, so that the whole file has to be replaced; `None` if it may be.
/// `real` is the canonical path.
///
/// # Errors
/// An interrupted change of the file must be undone first, or a system call fails.
pub fn overwrite_obstacle(real: &Path, file: &File) -> Result<Option<String>> {
    let found = file.metadata().map_err(|error| Error::io("cannot examine", real, error))?;
    let node = Inode::from_metadata(&found);
    if node.owner != inode::current_user() {
        return Ok(Some("the file belongs to another user".to_owned()));
    }
    if node.links > 1 {
        // Nobody would find the copy through a hard link in another folder.
        return Ok(Some(format!("the file has {} names (hard links)", node.links)));
    }
    match examine(real, file, &found)? {
        CopyState::Copy(_, HeaderState::Torn) => Err(torn(real)),
        CopyState::Nothing | CopyState::Copy(..) => Ok(None),
        CopyState::Other(why) => Ok(Some(why)),
    }
}

/// Overwrites the header of a file, which must be `old`, with new bytes of the same length. Signals that end the process are held
/// meanwhile.
///
/// # Errors
/// The file does not start with `old`, [`overwrite_obstacle`] returns a reason, or a system call fails. The file then has its old header or is
/// marked.
pub fn overwrite_header(locked: &LockedFile, old: &[u8], new: &[u8]) -> Result<()> {
    let path = locked.path();
    if old.len() != new.len() || old.len() < MARKER.len() {
        let message = format!("expected as many new bytes as old ones, at least {}, found {} for {}", MARKER.len(), new.len(), old.len());
        return Err(Error::argument(message).in_file(path));
    }
    if let Some(why) = overwrite_obstacle(locked.real_path(), locked.file())? {
        return Err(Error::argument(format!("the file cannot be changed in place: {why}")).in_file(path));
    }
    let found = locked.file().metadata().map_err(|error| Error::io("cannot examine", path, error))?;
    let copy = copy_path(locked.real_path(), &found);
    let _held = signals::hold();
    remove_if_there(&copy)?; // that of a change that was complete
    write_copy(locked, &found, &copy, &pack(&found, old, new))?;
    let present = read_header(locked.file(), old.len());
    if !present.as_ref().is_ok_and(|present| present == old) {
        remove(&copy)?;
        return Err(match present {
            Ok(_) => Error::malformed("another program changed the file meanwhile").in_file(path).hint("try again"),
            Err(error) => Error::io("cannot read", path, error),
        });
    }
    let written = write_header(locked.file(), new).map_err(|error| Error::io("cannot write", path, error));
    // The copy is kept if the old bytes cannot be restored either.
    if written.is_err() && write_header(locked.file(), old).is_err() {
        return written.map_err(|error| error.hint(Hint::Recover(path.to_path_buf())));
    }
    remove(&copy)?;
    written
}

/// Resolves an interrupted change of the file: restores the old header, or removes the copy if the change was complete.
///
/// # Errors
/// The copy is not trusted, or the file has changed since: nothing is touched. Or the file is marked but has no copy, or a system call
/// fails.
pub fn recover(locked: &LockedFile) -> Result<Recovery> {
    let (path, file) = (locked.path(), locked.file());
    let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
    let name = copy_path(locked.real_path(), &found);
    let (copy, present) = match examine(locked.real_path(), file, &found)? {
        CopyState::Copy(copy, present) => (copy, present),
        CopyState::Other(why) => {
            let error = Error::malformed(format!("{why}; nothing was changed")).in_file(path);
            return Err(error.hint(match is_marked(file) {
                true => "the owner of the model can recover it; otherwise download it again",
                false => "remove the copy if the model is intact",
            }));
        }
        CopyState::Nothing if is_marked(file) => {
            let message = format!("a change of its header was interrupted, and its undo copy {} does not exist", name.display());
            return Err(Error::malformed(message).in_file(path).hint("the copy is in the folder in which the file was changed"));
        }
        CopyState::Nothing => return Ok(Recovery::Nothing),
    };
    let _held = signals::hold();
    if present == HeaderState::Torn {
        write_header(file, &copy.old).map_err(|error| Error::io("cannot write", path, error))?;
    }
    remove(&name)?;
    Ok(if present == HeaderState::New { Recovery::Finished } else { Recovery::Undone })
}

/// An undo copy: the old and the new header of a file.
#[derive(Debug)]
struct UndoCopy {
    old: Vec<u8>,
    new: Vec<u8>,
}

/// The state of a file's undo copy.
#[derive(Debug)]
enum CopyState {
    Nothing,
    /// A trusted copy, and which header the file has.
    Copy(UndoCopy, HeaderState),
    /// An untrusted copy, and the reason.
    Other(String),
}

/// The header that a file has.
#[derive(Debug, PartialEq)]
enum HeaderState {
    Old,
    New,
    /// Marked, or a mixture of the two.
    Torn,
}

impl UndoCopy {
    /// Compares the present header with the copy's; `None` if it is neither of the two nor a mixture, so that someone has changed the file
    /// since.
    fn compare(&self, present: &[u8]) -> Option<HeaderState> {
        let rest = if present.starts_with(MARKER) { MARKER.len() } else { 0 };
        let mut bytes = present.iter().zip(&self.old).zip(&self.new).skip(rest);
        if present == self.old {
            Some(HeaderState::Old)
        } else if present == self.new {
            Some(HeaderState::New)
        } else {
            bytes.all(|((present, old), new)| present == old || present == new).then_some(HeaderState::Torn)
        }
    }
}

/// Examines the undo copy of a file and decides whether to trust it.
fn examine(real: &Path, file: &File, found: &Metadata) -> Result<CopyState> {
    let name = copy_path(real, found);
    let other = |why: &str| Ok(CopyState::Other(format!("{} cannot be used as its undo copy: {why}", name.display())));
    let copy = match open_itself(&name, false) {
        Ok(copy) => copy,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CopyState::Nothing),
        Err(error) => return other(&error.to_string()),
    };
    let Ok(meta) = copy.metadata() else { return other("it cannot be examined") };
    if let Some(why) = why_untrusted(&Inode::from_metadata(found), &Inode::from_metadata(&meta), inode::current_user()) {
        return other(why);
    }
    let mut packed = Vec::new();
    // Both headers must fit in the file.
    let most = found.len().saturating_mul(2).saturating_add(HEAD_BYTES);
    if let Err(error) = copy.take(most.saturating_add(1)).read_to_end(&mut packed) {
        return Err(Error::io("cannot read", name, error));
    }
    let copy = match unpack(&packed, found) {
        Ok(copy) => copy,
        Err(error) => return other(error.message()),
    };
    let present = read_header(file, copy.old.len()).map_err(|error| Error::io("cannot read", real, error))?;
    match copy.compare(&present) {
        Some(present) => Ok(CopyState::Copy(copy, present)),
        None => other("another program has changed the file since"),
    }
}

/// Returns the reason not to trust a copy, depending on who may have written it; `None` if it can be trusted.
fn why_untrusted(file: &Inode, copy: &Inode, current_user: u32) -> Option<&'static str> {
    if file.owner != current_user {
        Some("the file belongs to another user")
    } else if copy.owner != current_user {
        Some("it belongs to another user")
    } else if copy.mode & 0o022 != 0 {
        Some("others can write it")
    } else if copy.device != file.device {
        Some("it is on another device")
    } else {
        None
    }
}

/// Serialises the undo copy of a file: magic, digest of the rest, inode number, size and birth time of the file, header length, old header,
/// new header.
pub fn pack(found: &Metadata, old: &[u8], new: &[u8]) -> Vec<u8> {
    let head = [Inode::from_metadata(found).number, found.len(), inode::birth_time(found), old.len() as u64].map(u64::to_le_bytes).concat();
    let digest = Sha256::new().chain_update(&head).chain_update(old).chain_update(new).finalize();
    [&MAGIC[..], &digest, &head, old, new].concat()
}

fn unpack(packed: &[u8], found: &Metadata) -> Result<UndoCopy> {
    let mut cursor = Cursor::new(packed, Endian::Little);
    let magic = cursor.take(MAGIC.len() as u64, "the magic")?;
    let digest = cursor.take(32, "the digest")?;
    let body = packed.get(MAGIC.len() + 32..).unwrap_or_default();
    if magic != MAGIC || digest != Sha256::digest(body).as_slice() {
        return Err(Error::malformed("it is damaged or not an undo copy"));
    }
    let mut number = |what| cursor.u64(what);
    let of = [number("the number")?, number("the size")?, number("the birth")?];
    let len = number("the length")?;
    if of != [Inode::from_metadata(found).number, found.len(), inode::birth_time(found)] {
        return Err(Error::malformed("it belongs to another file"));
    }
    let old = cursor.take(len, "the old start")?.to_vec();
    let new = cursor.take(len, "the new start")?.to_vec();
    if cursor.remaining() > 0 || old.len() < MARKER.len() {
        return Err(Error::malformed("its lengths do not match the file"));
    }
    Ok(UndoCopy { old, new })
}

/// Returns the path of a file's undo copy; short, so that it works for the longest possible file name.
pub fn copy_path(real: &Path, found: &Metadata) -> PathBuf {
    real.with_file_name(format!(".weigh-undo-{:x}", Inode::from_metadata(found).number))
}

/// Writes a copy atomically, with permissions no wider than the file's.
fn write_copy(locked: &LockedFile, found: &Metadata, copy: &Path, packed: &[u8]) -> Result<()> {
    let folder = parent(copy);
    let failed = |error| Error::io("cannot write the undo copy", copy, error);
    let _claim = stale::claim(folder);
    let mut file = temporary(folder, Inode::from_metadata(found).mode & 0o600).map_err(failed)?;
    let written = file.as_file().metadata().map_err(failed)?;
    if let Some(why) = why_untrusted(&Inode::from_metadata(found), &Inode::from_metadata(&written), inode::current_user()) {
        let error = Error::unsupported(format!("no trusted undo copy can be written: {why}")).in_file(locked.path());
        return Err(error.hint(Hint::WriteNewFile));
    }
    file.write_all(packed).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist_noclobber(copy).map_err(|error| failed(error.error))?;
    sync_folder(folder).map_err(failed)
}

/// Creates a file with at most these permissions, under a name that a later run cleans up.
fn temporary(folder: &Path, mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(stale::PREFIX).rand_bytes(stale::RANDOM);
    builder.permissions(fs::Permissions::from_mode(mode));
    builder.tempfile_in(folder)
}

fn remove(copy: &Path) -> Result<()> {
    let removed = fs::remove_file(copy).and_then(|()| sync_folder(parent(copy)));
    removed.map_err(|error| Error::io("cannot remove the undo copy", copy, error))
}

fn remove_if_there(copy: &Path) -> Result<()> {
    if fs::symlink_metadata(copy).is_ok() { remove(copy) } else { Ok(()) }
}

fn read_header(file: &File, len: usize) -> io::Result<Vec<u8>> {
    let mut start = vec![0; len];
    read_exact_at(file, &mut start, 0)?;
    Ok(start)
}

/// Writes the header so that the file is marked until it is complete.
fn write_header(file: &File, bytes: &[u8]) -> io::Result<()> {
    let (first, rest) = bytes.split_at_checked(MARKER.len()).ok_or(io::ErrorKind::InvalidInput)?;
    write_all_at(file, MARKER, 0)?;
    file.sync_data()?;
    write_all_at(file, rest, MARKER.len() as u64)?;
    file.sync_data()?;
    write_all_at(file, first, 0)?;
    // Kernel timestamps are a few milliseconds coarse, so that readers might not notice the change.
    let _ = file.set_modified(SystemTime::now());
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;
    use crate::source;
    use crate::source::torn::{PAUSE, is_unchanged, refuse_torn};

    const OLD: &[u8] = b"the old start";
    const NEW: &[u8] = b"the NEW START";
    const REST: &[u8] = b", and the rest";

    struct Case {
        folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Case {
        /// Creates a file with this header.
        fn new(start: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().canonicalize().unwrap().join("m");
            fs::write(&path, [start, REST].concat()).unwrap();
            Self { folder, path }
        }

        fn meta(&self) -> Metadata {
            fs::metadata(&self.path).unwrap()
        }

        fn copy(&self) -> PathBuf {
            copy_path(&self.path, &self.meta())
        }

        /// Writes the copy that a change from OLD to NEW leaves.
        fn put(&self) -> &Self {
            self.put_bytes(&pack(&self.meta(), OLD, NEW))
        }

        fn put_bytes(&self, packed: &[u8]) -> &Self {
            fs::write(self.copy(), packed).unwrap();
            fs::set_permissions(self.copy(), fs::Permissions::from_mode(0o600)).unwrap();
            self
        }

        fn file(&self) -> File {
            File::open(&self.path).unwrap()
        }

        fn locked(&self) -> LockedFile {
            LockedFile::open(&self.path, &mut |_| ()).unwrap()
        }

        fn bytes(&self) -> Vec<u8> {
            fs::read(&self.path).unwrap()
        }

        fn names(&self) -> usize {
            fs::read_dir(self.folder.path()).unwrap().count()
        }

        /// Checks that reading, recovering and editing touch neither the file nor the copy.
        fn is_untouched(&self, why: &str) {
            let (bytes, copy) = (self.bytes(), fs::read(self.copy()).unwrap());
            source::open(&self.path).unwrap();
            let error = recover(&self.locked()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("nothing was changed"), "{error}");
            let overwrite_obstacle = overwrite_obstacle(&self.path, self.locked().file()).unwrap().unwrap();
            assert!(overwrite_obstacle.contains(why), "{overwrite_obstacle}");
            assert!(overwrite_header(&self.locked(), &bytes[..OLD.len()], NEW).is_err());
            assert_eq!((self.bytes(), fs::read(self.copy()).unwrap()), (bytes, copy));
        }
    }

    #[test]
    fn the_header_is_replaced_and_the_copy_removed() {
        let case = Case::new(OLD);
        let before = case.meta().modified().unwrap();
        overwrite_header(&case.locked(), OLD, NEW).unwrap();
        assert_eq!(case.bytes(), [NEW, REST].concat());
        assert_eq!(case.names(), 1);
        assert_ne!(case.meta().modified().unwrap(), before, "readers see that it was changed");
        assert_eq!(recover(&case.locked()).unwrap(), Recovery::Nothing);
    }

    #[test]
    fn a_header_that_differs_from_the_parsed_one_is_not_overwritten() {
        let case = Case::new(b"their  start!");
        assert!(overwrite_header(&case.locked(), OLD, NEW).unwrap_err().to_string().contains("another program"));
        assert_eq!(case.bytes(), [&b"their  start!"[..], REST].concat());
        assert_eq!(case.names(), 1);
    }

    #[test]
    fn after_a_crash_at_any_step_the_header_is_whole_or_refused_and_recoverable() {
        let marked = |rest: &[u8]| [&MARKER[..], rest].concat();
        let torn = [
            marked(&OLD[8..]),
            marked(&NEW[8..]),
            marked(&[&NEW[8..10], &OLD[10..]].concat()),
            marked(&[&OLD[8..11], &NEW[11..]].concat()),
        ];
        for start in torn {
            let case = Case::new(&start);
            case.put();
            let error = refuse_torn(&case.path, &case.file()).unwrap_err();
            assert!(matches!(error.hints()[..], [Hint::Recover(_)]), "{error}");
            assert_eq!((case.bytes(), case.names()), ([&start, REST].concat(), 2), "reading writes nothing");
            assert!(overwrite_obstacle(&case.path, &case.file()).is_err());
            assert_eq!(recover(&case.locked()).unwrap(), Recovery::Undone);
            assert_eq!((case.bytes(), case.names()), ([OLD, REST].concat(), 1));
        }
        for (start, want) in [(OLD, Recovery::Undone), (NEW, Recovery::Finished)] {
            let case = Case::new(start);
            case.put();
            refuse_torn(&case.path, &case.file()).unwrap();
            assert_eq!(case.names(), 2, "reading writes nothing");
            assert_eq!(recover(&case.locked()).unwrap(), want);
            assert_eq!((case.bytes(), case.names()), ([start, REST].concat(), 1));
            // The next change removes the copy too.
            case.put();
            overwrite_header(&case.locked(), start, b"a third start").unwrap();
            assert_eq!((case.bytes(), case.names()), ([&b"a third start"[..], REST].concat(), 1));
        }
    }

    #[test]
    fn a_marked_file_without_its_copy_is_reported() {
        let case = Case::new(&[&MARKER[..], &OLD[8..]].concat());
        assert!(recover(&case.locked()).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn recovery_waits_for_a_change_in_progress() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        let locked = case.locked();
        let map = source::open(&case.path).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| refuse_torn(&case.path, &case.file()));
            std::thread::sleep(PAUSE * 3);
            write_header(locked.file(), NEW).unwrap();
            reader.join().unwrap().unwrap();
        });
        assert!(!is_unchanged(&*map));
    }

    #[test]
    fn copies_of_other_files_are_not_trusted() {
        let case = Case::new(OLD);
        let meta = case.meta();
        let packed = pack(&meta, OLD, NEW);
        let other = Case::new(b"another start of another length");
        let mut damaged = packed.clone();
        damaged[60] ^= 1;
        let beyond = [OLD, REST, REST].concat();
        for (packed, why) in [
            (pack(&other.meta(), OLD, NEW), "belongs to another file"),
            (damaged, "not an undo copy"),
            ([&packed[..], b"x"].concat(), "not an undo copy"),
            (packed[..40].to_vec(), "not an undo copy"),
            (b"weigh-u1 from an older time".to_vec(), "expected"),
            (Vec::new(), "expected"),
            (pack(&meta, b"shorter start", b"short"), "expected"),
            (pack(&meta, b"seven..", b"SEVEN.."), "lengths"),
            (pack(&meta, &beyond, &beyond), "not an undo copy"),
        ] {
            case.put_bytes(&packed).is_untouched(why);
        }
    }

    #[test]
    fn a_file_changed_since_by_another_program_is_untouched() {
        let marked = [&MARKER[..], b"other"].concat();
        for start in [&b"their start!!"[..], &marked] {
            Case::new(start).put().is_untouched("another program has changed the file since");
        }
    }

    #[test]
    fn a_copy_writable_by_others_is_not_trusted() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(case.put().copy(), fs::Permissions::from_mode(mode)).unwrap();
            case.is_untouched("others can write it");
        }
        let elsewhere = case.path.with_file_name("elsewhere");
        fs::rename(case.put().copy(), &elsewhere).unwrap();
        symlink(&elsewhere, case.copy()).unwrap();
        case.is_untouched("symbolic link");
        fs::remove_file(case.copy()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, case.copy(), 0o600.into()).unwrap();
        assert!(recover(&case.locked()).unwrap_err().to_string().contains("not a regular file"));
        assert!(why_untrusted(&node(1), &node(1), 2).unwrap().contains("the file belongs to another user"));
        assert!(why_untrusted(&node(1), &node(2), 1).unwrap().contains("it belongs to another user"));
        assert!(why_untrusted(&node(1), &Inode { device: 2, ..node(1) }, 1).unwrap().contains("another device"));
        assert_eq!(why_untrusted(&node(1), &node(1), 1), None);
    }

    fn node(owner: u32) -> Inode {
        Inode { device: 1, number: 1, owner, mode: 0o600, links: 1 }
    }

    #[test]
    fn a_copy_planted_by_another_user_is_ignored() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        // Only root can change owners.
        if chown(case.put().copy(), Some(65_533), None).is_ok() {
            case.is_untouched("it belongs to another user");
            chown(&case.path, Some(65_533), None).unwrap();
            case.is_untouched("the file belongs to another user");
        }
    }

    #[test]
    fn writes_go_to_the_locked_file_even_if_its_path_changes() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        let locked = case.put().locked();
        let victim = Case::new(OLD);
        let moved = case.path.with_file_name("moved");
        fs::rename(&case.path, &moved).unwrap();
        symlink(&victim.path, &case.path).unwrap();
        assert_eq!(recover(&locked).unwrap(), Recovery::Undone);
        assert_eq!((fs::read(&moved).unwrap(), victim.bytes()), ([OLD, REST].concat(), [OLD, REST].concat()));
        overwrite_header(&locked, OLD, NEW).unwrap();
        assert_eq!((fs::read(&moved).unwrap(), victim.bytes()), ([NEW, REST].concat(), [OLD, REST].concat()));
    }

    #[test]
    fn a_copy_never_has_wider_permissions_than_the_file() {
        for (mode, want) in [(0o644, 0o600), (0o600, 0o600), (0o777, 0o600)] {
            let case = Case::new(OLD);
            fs::set_permissions(&case.path, fs::Permissions::from_mode(mode)).unwrap();
            let meta = case.meta();
            let made = temporary(case.folder.path(), Inode::from_metadata(&meta).mode & 0o600).unwrap();
            assert_eq!(made.as_file().metadata().unwrap().mode() & 0o777, want, "from the first moment");
            write_copy(&case.locked(), &meta, &case.copy(), &pack(&meta, OLD, NEW)).unwrap();
            assert_eq!(fs::metadata(case.copy()).unwrap().mode() & 0o777, want);
        }
    }
}
