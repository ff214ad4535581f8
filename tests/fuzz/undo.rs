//! Any undo copy beside any file: reading changes nothing; recovery leaves everything alone or puts back a start that the copy has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weigh::source::torn::MARKER;
use weigh::write::lock::LockedFile;
use weigh::write::undo;
use weigh::write::undo::Recovery;

use super::{Target, file, folder};

/// The first three bytes are the length of the starts, how the present start is made, and how many changes are made to the copy; then
/// come the changes, each a place and a value, and then the old start, the new one, and the rest of the file.
pub const UNDO: Target = Target { name: "undo", run, seeds };

/// The bytes of a copy before the old start.
const HEAD: usize = 72;

fn run(data: &[u8]) {
    let [length, kind, count, rest @ ..] = data else { return };
    let length = usize::from(*length);
    let Some((changes, rest)) = rest.split_at_checked(2 * usize::from(*count)) else { return };
    let Some((old, rest)) = rest.split_at_checked(length) else { return };
    let Some((new, rest)) = rest.split_at_checked(length) else { return };
    let start = present(*kind, old, new);
    let whole = |start: &[u8]| [start, rest].concat();
    let path = file(&folder().canonicalize().expect("the folder"), "undone", &whole(&start));
    let meta = fs::metadata(&path).expect("the file");
    let mut packed = undo::pack(&meta, old, new);
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % packed.len();
        packed[at] = change[1];
    }
    // Copies that count in all but their first bytes.
    if kind & 0x80 != 0 {
        packed.truncate(HEAD + usize::from(*kind & 0x7f));
    }
    let copy = undo::copy_path(&path, &meta);
    let copy = file(&folder().canonicalize().expect("the folder"), &copy.file_name().expect("a name").to_string_lossy(), &packed);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).expect("a file of our own");
    let untouched = || read(&path) == whole(&start) && read(&copy) == packed;

    let _ = weigh::format::open(&path);
    assert!(untouched(), "reading writes nothing");
    let recovered = LockedFile::open(&path, &mut |_| ()).and_then(|locked| undo::recover(&locked));
    match recovered {
        Err(_) => assert!(untouched(), "what is refused is left alone"),
        Ok(recovery) => {
            assert!(packed == undo::pack(&meta, old, new), "only a copy as it was made counts");
            assert!(length >= MARKER.len() && !copy.exists());
            let wanted = if recovery == Recovery::Finished { new } else { old };
            assert!(recovery != Recovery::Nothing && read(&path) == whole(wanted), "{recovery:?}");
        }
    }
    let _ = fs::remove_file(copy);
}

/// The old start, the new one, a marked one, a mixture, or the old one changed by somebody.
fn present(kind: u8, old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = old.len() / 2;
    let mut start = match kind % 5 {
        0 | 4 => old.to_vec(),
        1 => new.to_vec(),
        _ => [&new[..at], &old[at..]].concat(),
    };
    if kind % 5 == 2 && start.len() >= MARKER.len() {
        start[..MARKER.len()].copy_from_slice(MARKER);
    }
    if let (4, Some(last)) = (kind % 5, start.last_mut()) {
        *last ^= 0x55;
    }
    start
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file of our own")
}

fn seeds() -> Vec<Vec<u8>> {
    let (old, new) = (b"the old start of it", b"the NEW start of IT");
    let changes: [&[u8]; 4] = [&[], &[0, b'w'], &[50, 1], &[80, 0, 8, 0]];
    let seed = |kind: u8, changes: &[u8]| {
        [&[old.len() as u8, kind, changes.len() as u8 / 2][..], changes, old, new, b"and what follows, as it was"].concat()
    };
    let kinds = (0..5).chain([0x80, 0xa0]);
    kinds.flat_map(|kind| changes.map(|changes| seed(kind, changes))).chain([[&[4, 2, 0][..], b"old.NEW.rest"].concat()]).collect()
}
