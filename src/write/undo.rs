//! Overwriting the start of a file so that a crash at any moment can be undone, and nobody takes half a change for a model.
//!
//! The old and the new bytes go into an undo copy beside the file first, `.weigh-undo-` and the file's number on its disk. Only then is
//! the start overwritten: first its first bytes by a [`MARKER`] that no format has, then the rest, then the first bytes; each step is
//! synced before the next. So the start is wholly old, wholly new, or marked. When it is new, the copy is removed.
//!
//! Readers look at the marker alone, never at copies: they refuse a marked file, and write nothing. [`recover`] puts the old bytes back,
//! from a copy that counts: a regular file of the file's owner, who is the caller, that nobody else can write, of this very file.

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
use crate::write::lock::Locked;
use crate::write::node::{self, Node};
use crate::write::{signals, stale};

/// The first bytes of a copy; the digit is its version.
const MAGIC: &[u8; 8] = b"weigh-u2";

/// The bytes of a copy before the old start: magic, digest, number, size and birth of the file, length of the start.
const HEAD_BYTES: u64 = 8 + 32 + 4 * 8;

/// What [`recover`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// No change was interrupted.
    Nothing,
    /// The change was complete; only its copy was left.
    Finished,
    /// The file has its old start again.
    Undone,
}

/// Why the start of a file must not be overwritten, so that a new file has to take its place; none if it may be. The path is that of
/// the file itself, without links.
///
/// # Errors
/// A change of the file was interrupted and must be undone first; or the system refuses.
pub fn obstacle(real: &Path, file: &File) -> Result<Option<String>> {
    let found = file.metadata().map_err(|error| Error::io("cannot examine", real, error))?;
    let node = Node::of(&found);
    if node.owner != node::caller() {
        return Ok(Some("the file belongs to another user".to_owned()));
    }
    if node.links > 1 {
        // Through a name in another folder nobody would find the copy.
        return Ok(Some(format!("the file has {} names (hard links)", node.links)));
    }
    match examine(real, file, &found)? {
        Beside::Copy(_, Present::Torn) => Err(torn(real)),
        Beside::Nothing | Beside::Copy(..) => Ok(None),
        Beside::Other(why) => Ok(Some(why)),
    }
}

/// Overwrites the first bytes of a file, which must be `old`, by as many new ones. A signal that ends the process waits meanwhile.
///
/// # Errors
/// The file does not start with `old`; [`obstacle`] has something against it; or the system refuses. The file then has its old start,
/// or is marked.
pub fn overwrite_start(locked: &Locked, old: &[u8], new: &[u8]) -> Result<()> {
    let path = locked.path();
    if old.len() != new.len() || old.len() < MARKER.len() {
        let message = format!("expected as many new bytes as old ones, at least {}, found {} for {}", MARKER.len(), new.len(), old.len());
        return Err(Error::argument(message).in_file(path));
    }
    if let Some(why) = obstacle(locked.real_path(), locked.file())? {
        return Err(Error::argument(format!("expected a file whose start can be overwritten: {why}")).in_file(path));
    }
    let found = locked.file().metadata().map_err(|error| Error::io("cannot examine", path, error))?;
    let copy = copy_path(locked.real_path(), &found);
    let _held = signals::hold();
    remove_if_there(&copy)?; // that of a change that was complete
    write_copy(locked, &found, &copy, &pack(&found, old, new))?;
    let present = read_start(locked.file(), old.len());
    if !present.as_ref().is_ok_and(|present| present == old) {
        remove(&copy)?;
        return Err(match present {
            Ok(_) => Error::malformed("another program changed the file meanwhile").in_file(path).hint("try again"),
            Err(error) => Error::io("cannot read", path, error),
        });
    }
    let written = write_start(locked.file(), new).map_err(|error| Error::io("cannot write", path, error));
    // The copy stays where even the old bytes cannot be written.
    if written.is_err() && write_start(locked.file(), old).is_err() {
        return written.map_err(|error| error.hint(Hint::Recover(path.to_path_buf())));
    }
    remove(&copy)?;
    written
}

/// Ends a change of the file that was interrupted: takes back what was written, or removes the copy of a change that was complete.
///
/// # Errors
/// There is a copy that does not count, or somebody has changed the file since: nothing is touched. Or the file is marked, and has no copy;
/// or the system refuses.
pub fn recover(locked: &Locked) -> Result<Recovery> {
    let (path, file) = (locked.path(), locked.file());
    let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
    let name = copy_path(locked.real_path(), &found);
    let (copy, present) = match examine(locked.real_path(), file, &found)? {
        Beside::Copy(copy, present) => (copy, present),
        Beside::Other(why) => {
            let error = Error::malformed(format!("{why}; nothing was changed")).in_file(path);
            return Err(error.hint(match is_marked(file) {
                true => "the owner of the model can recover it; else take it anew from where it came",
                false => "remove the copy if the model is as it should be",
            }));
        }
        Beside::Nothing if is_marked(file) => {
            let message = format!("a change of its header was interrupted, and its undo copy {} is not there", name.display());
            return Err(Error::malformed(message).in_file(path).hint("the copy is in the folder in which the file was changed"));
        }
        Beside::Nothing => return Ok(Recovery::Nothing),
    };
    let _held = signals::hold();
    if present == Present::Torn {
        write_start(file, &copy.old).map_err(|error| Error::io("cannot write", path, error))?;
    }
    remove(&name)?;
    Ok(if present == Present::New { Recovery::Finished } else { Recovery::Undone })
}

/// The undo copy of a file: its old start and its new one.
#[derive(Debug)]
struct Copy {
    old: Vec<u8>,
    new: Vec<u8>,
}

/// What lies under the name of a file's undo copy.
#[derive(Debug)]
enum Beside {
    Nothing,
    /// A copy that counts, and which of its starts the file has.
    Copy(Copy, Present),
    /// Something that does not count, and why.
    Other(String),
}

/// The start that a file has.
#[derive(Debug, PartialEq)]
enum Present {
    Old,
    New,
    /// Marked, or a mixture of the two.
    Torn,
}

impl Copy {
    /// None for a start that is neither the old one nor the new one nor made of these two: somebody has changed the file since.
    fn compare(&self, present: &[u8]) -> Option<Present> {
        let rest = if present.starts_with(MARKER) { MARKER.len() } else { 0 };
        let mut bytes = present.iter().zip(&self.old).zip(&self.new).skip(rest);
        if present == self.old {
            Some(Present::Old)
        } else if present == self.new {
            Some(Present::New)
        } else {
            bytes.all(|((present, old), new)| present == old || present == new).then_some(Present::Torn)
        }
    }
}

/// Looks at the undo copy of a file and decides whether it counts.
fn examine(real: &Path, file: &File, found: &Metadata) -> Result<Beside> {
    let name = copy_path(real, found);
    let other = |why: &str| Ok(Beside::Other(format!("{} does not count as its undo copy: {why}", name.display())));
    let copy = match open_itself(&name, false) {
        Ok(copy) => copy,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Beside::Nothing),
        Err(error) => return other(&error.to_string()),
    };
    let Ok(meta) = copy.metadata() else { return other("it cannot be examined") };
    if let Some(why) = distrust(&Node::of(found), &Node::of(&meta), node::caller()) {
        return other(why);
    }
    let mut packed = Vec::new();
    // Neither start is longer than the file.
    let most = found.len().saturating_mul(2).saturating_add(HEAD_BYTES);
    if let Err(error) = copy.take(most.saturating_add(1)).read_to_end(&mut packed) {
        return Err(Error::io("cannot read", name, error));
    }
    let copy = match unpack(&packed, found) {
        Ok(copy) => copy,
        Err(error) => return other(error.message()),
    };
    let present = read_start(file, copy.old.len()).map_err(|error| Error::io("cannot read", real, error))?;
    match copy.compare(&present) {
        Some(present) => Ok(Beside::Copy(copy, present)),
        None => other("another program has changed the file since"),
    }
}

/// Why a copy does not count, by who may have written it; none if it does.
fn distrust(file: &Node, copy: &Node, caller: u32) -> Option<&'static str> {
    if file.owner != caller {
        Some("the file belongs to another user")
    } else if copy.owner != caller {
        Some("it belongs to another user")
    } else if copy.mode & 0o022 != 0 {
        Some("others can write it")
    } else if copy.device != file.device {
        Some("it is on another device")
    } else {
        None
    }
}

/// The bytes of the copy of a file whose start is `old` and is to be `new`: magic, digest of what follows, number, size and birth of
/// the file, length of the start, old start, new start.
pub fn pack(found: &Metadata, old: &[u8], new: &[u8]) -> Vec<u8> {
    let head = [Node::of(found).number, found.len(), node::born(found), old.len() as u64].map(u64::to_le_bytes).concat();
    let digest = Sha256::new().chain_update(&head).chain_update(old).chain_update(new).finalize();
    [&MAGIC[..], &digest, &head, old, new].concat()
}

fn unpack(packed: &[u8], found: &Metadata) -> Result<Copy> {
    let mut cursor = Cursor::new(packed, Endian::Little);
    let magic = cursor.take(MAGIC.len() as u64, "the magic")?;
    let digest = cursor.take(32, "the digest")?;
    let body = packed.get(MAGIC.len() + 32..).unwrap_or_default();
    if magic != MAGIC || digest != Sha256::digest(body).as_slice() {
        return Err(Error::malformed("its bytes are not those of a copy"));
    }
    let mut number = |what| cursor.u64(what);
    let of = [number("the number")?, number("the size")?, number("the birth")?];
    let len = number("the length")?;
    if of != [Node::of(found).number, found.len(), node::born(found)] {
        return Err(Error::malformed("it is of another file"));
    }
    let old = cursor.take(len, "the old start")?.to_vec();
    let new = cursor.take(len, "the new start")?.to_vec();
    if cursor.remaining() > 0 || old.len() < MARKER.len() {
        return Err(Error::malformed("its lengths do not fit the file"));
    }
    Ok(Copy { old, new })
}

/// The path of the undo copy of a file. Short, so that a file with the longest possible name can be changed too.
pub fn copy_path(real: &Path, found: &Metadata) -> PathBuf {
    real.with_file_name(format!(".weigh-undo-{:x}", Node::of(found).number))
}

/// Writes a copy that appears whole or not at all, open to no more people than the file is.
fn write_copy(locked: &Locked, found: &Metadata, copy: &Path, packed: &[u8]) -> Result<()> {
    let folder = parent(copy);
    let failed = |error| Error::io("cannot write the undo copy", copy, error);
    let _claim = stale::claim(folder);
    let mut file = temporary(folder, Node::of(found).mode & 0o600).map_err(failed)?;
    let written = file.as_file().metadata().map_err(failed)?;
    if let Some(why) = distrust(&Node::of(found), &Node::of(&written), node::caller()) {
        let error = Error::unsupported(format!("no undo copy can be made that would count: {why}")).in_file(locked.path());
        return Err(error.hint(Hint::WriteNewFile));
    }
    file.write_all(packed).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist_noclobber(copy).map_err(|error| failed(error.error))?;
    sync_folder(folder).map_err(failed)
}

/// A new file with these permissions at most, under a name that a later run clears away.
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

fn read_start(file: &File, len: usize) -> io::Result<Vec<u8>> {
    let mut start = vec![0; len];
    read_exact_at(file, &mut start, 0)?;
    Ok(start)
}

/// Writes the first bytes of a file so that it is marked for as long as they are not whole.
fn write_start(file: &File, bytes: &[u8]) -> io::Result<()> {
    let (first, rest) = bytes.split_at_checked(MARKER.len()).ok_or(io::ErrorKind::InvalidInput)?;
    write_all_at(file, MARKER, 0)?;
    file.sync_data()?;
    write_all_at(file, rest, MARKER.len() as u64)?;
    file.sync_data()?;
    write_all_at(file, first, 0)?;
    // The system's own times are a few milliseconds coarse: a reader could not tell the file from that before the change.
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
        /// A file with this start.
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

        /// Puts a copy beside the file, as a change of OLD to NEW leaves it.
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

        fn locked(&self) -> Locked {
            Locked::open(&self.path, &mut |_| ()).unwrap()
        }

        fn bytes(&self) -> Vec<u8> {
            fs::read(&self.path).unwrap()
        }

        fn names(&self) -> usize {
            fs::read_dir(self.folder.path()).unwrap().count()
        }

        /// Neither reading nor recovering nor editing touches the file or what lies beside it.
        fn is_left_alone(&self, why: &str) {
            let (bytes, copy) = (self.bytes(), fs::read(self.copy()).unwrap());
            source::open(&self.path).unwrap();
            let error = recover(&self.locked()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("nothing was changed"), "{error}");
            let obstacle = obstacle(&self.path, self.locked().file()).unwrap().unwrap();
            assert!(obstacle.contains(why), "{obstacle}");
            assert!(overwrite_start(&self.locked(), &bytes[..OLD.len()], NEW).is_err());
            assert_eq!((self.bytes(), fs::read(self.copy()).unwrap()), (bytes, copy));
        }
    }

    #[test]
    fn the_start_is_new_and_no_copy_is_left() {
        let case = Case::new(OLD);
        let before = case.meta().modified().unwrap();
        overwrite_start(&case.locked(), OLD, NEW).unwrap();
        assert_eq!(case.bytes(), [NEW, REST].concat());
        assert_eq!(case.names(), 1);
        assert_ne!(case.meta().modified().unwrap(), before, "readers see that it was changed");
        assert_eq!(recover(&case.locked()).unwrap(), Recovery::Nothing);
    }

    #[test]
    fn a_start_that_is_not_the_one_that_was_parsed_is_not_overwritten() {
        let case = Case::new(b"their  start!");
        assert!(overwrite_start(&case.locked(), OLD, NEW).unwrap_err().to_string().contains("another program"));
        assert_eq!(case.bytes(), [&b"their  start!"[..], REST].concat());
        assert_eq!(case.names(), 1);
    }

    #[test]
    fn after_a_crash_at_any_moment_readers_refuse_or_find_a_whole_start_and_recovery_ends_the_change() {
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
            assert!(obstacle(&case.path, &case.file()).is_err());
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
            // The next change clears the copy away too.
            case.put();
            overwrite_start(&case.locked(), start, b"a third start").unwrap();
            assert_eq!((case.bytes(), case.names()), ([&b"a third start"[..], REST].concat(), 1));
        }
    }

    #[test]
    fn a_marked_file_without_its_copy_is_said_to_be_one() {
        let case = Case::new(&[&MARKER[..], &OLD[8..]].concat());
        assert!(recover(&case.locked()).unwrap_err().to_string().contains("is not there"));
    }

    #[test]
    fn a_file_that_is_being_changed_is_waited_for() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        let locked = case.locked();
        let map = source::open(&case.path).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| refuse_torn(&case.path, &case.file()));
            std::thread::sleep(PAUSE * 3);
            write_start(locked.file(), NEW).unwrap();
            reader.join().unwrap().unwrap();
        });
        assert!(!is_unchanged(&*map));
    }

    #[test]
    fn copies_of_other_files_do_not_count() {
        let case = Case::new(OLD);
        let meta = case.meta();
        let packed = pack(&meta, OLD, NEW);
        let other = Case::new(b"another start of another length");
        let mut damaged = packed.clone();
        damaged[60] ^= 1;
        let beyond = [OLD, REST, REST].concat();
        for (packed, why) in [
            (pack(&other.meta(), OLD, NEW), "of another file"),
            (damaged, "not those of a copy"),
            ([&packed[..], b"x"].concat(), "not those of a copy"),
            (packed[..40].to_vec(), "not those of a copy"),
            (b"weigh-u1 from an older time".to_vec(), "expected"),
            (Vec::new(), "expected"),
            (pack(&meta, b"shorter start", b"short"), "expected"),
            (pack(&meta, b"seven..", b"SEVEN.."), "lengths"),
            (pack(&meta, &beyond, &beyond), "not those of a copy"),
        ] {
            case.put_bytes(&packed).is_left_alone(why);
        }
    }

    #[test]
    fn a_file_that_another_tool_has_changed_since_is_left_alone() {
        let marked = [&MARKER[..], b"other"].concat();
        for start in [&b"their start!!"[..], &marked] {
            Case::new(start).put().is_left_alone("another program has changed the file since");
        }
    }

    #[test]
    fn a_copy_that_somebody_else_may_have_written_does_not_count() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(case.put().copy(), fs::Permissions::from_mode(mode)).unwrap();
            case.is_left_alone("others can write it");
        }
        let elsewhere = case.path.with_file_name("elsewhere");
        fs::rename(case.put().copy(), &elsewhere).unwrap();
        symlink(&elsewhere, case.copy()).unwrap();
        case.is_left_alone("symbolic link");
        fs::remove_file(case.copy()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, case.copy(), 0o600.into()).unwrap();
        assert!(recover(&case.locked()).unwrap_err().to_string().contains("not a regular file"));
        assert!(distrust(&node(1), &node(1), 2).unwrap().contains("the file belongs to another user"));
        assert!(distrust(&node(1), &node(2), 1).unwrap().contains("it belongs to another user"));
        assert!(distrust(&node(1), &Node { device: 2, ..node(1) }, 1).unwrap().contains("another device"));
        assert_eq!(distrust(&node(1), &node(1), 1), None);
    }

    fn node(owner: u32) -> Node {
        Node { device: 1, number: 1, owner, mode: 0o600, links: 1 }
    }

    #[test]
    fn a_planted_copy_of_another_user_changes_nothing() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        // Only root can give files away.
        if chown(case.put().copy(), Some(65_533), None).is_ok() {
            case.is_left_alone("it belongs to another user");
            chown(&case.path, Some(65_533), None).unwrap();
            case.is_left_alone("the file belongs to another user");
        }
    }

    #[test]
    fn what_is_written_goes_into_the_locked_file_wherever_its_path_leads_by_now() {
        let case = Case::new(&[&MARKER[..], &NEW[8..]].concat());
        let locked = case.put().locked();
        let victim = Case::new(OLD);
        let moved = case.path.with_file_name("moved");
        fs::rename(&case.path, &moved).unwrap();
        symlink(&victim.path, &case.path).unwrap();
        assert_eq!(recover(&locked).unwrap(), Recovery::Undone);
        assert_eq!((fs::read(&moved).unwrap(), victim.bytes()), ([OLD, REST].concat(), [OLD, REST].concat()));
        overwrite_start(&locked, OLD, NEW).unwrap();
        assert_eq!((fs::read(&moved).unwrap(), victim.bytes()), ([NEW, REST].concat(), [OLD, REST].concat()));
    }

    #[test]
    fn a_copy_is_never_open_to_more_people_than_the_file() {
        for (mode, want) in [(0o644, 0o600), (0o600, 0o600), (0o777, 0o600)] {
            let case = Case::new(OLD);
            fs::set_permissions(&case.path, fs::Permissions::from_mode(mode)).unwrap();
            let meta = case.meta();
            let made = temporary(case.folder.path(), Node::of(&meta).mode & 0o600).unwrap();
            assert_eq!(made.as_file().metadata().unwrap().mode() & 0o777, want, "from the first moment");
            write_copy(&case.locked(), &meta, &case.copy(), &pack(&meta, OLD, NEW)).unwrap();
            assert_eq!(fs::metadata(case.copy()).unwrap().mode() & 0o777, want);
        }
    }
}
