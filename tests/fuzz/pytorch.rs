//! Any bytes as a pickle, alone and in an archive, and as an archive: they open or not, verify agrees, and what is listed can be read.

use super::open::check_bytes;
use super::{Target, fixtures};
use crate::build::{Pickle, zip};

/// A pickle: by itself if the first byte is even, otherwise in an archive with a storage of 64 bytes.
pub const PICKLE: Target = Target {
    name: "pickle",
    run: |data| {
        let Some((how, pickle)) = data.split_first() else { return };
        let whole = if how % 2 == 0 { pickle.to_vec() } else { zip(&[("a/data.pkl", pickle), ("a/data/0", &[0; 64])]) };
        check_bytes("m.pt", &whole);
    },
    seeds: pickles,
};

/// An archive.
pub const ARCHIVE: Target = Target { name: "archive", run: |data| check_bytes("m.pt", data), seeds: archives };

fn pickles() -> Vec<Vec<u8>> {
    let view = Pickle::new(2).op(b"}").text("w").tensor("FloatStorage", "0", 16, 1, &[3, 2], &[1, 3]).op(b"s").end();
    let harm = b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02hi\x94\x85\x94R\x94.";
    let text = b"(dp0\nS'a\\x41'\np1\n(lp2\nI01\naL12L\naF0.5\naVb\\u0041\nasg1\nNs.";
    let object = b"\x80\x02ccopy_reg\n_reconstructor\n(cm\nC\nc__builtin__\nobject\nNtR}X\x01\0\0\0a]K\x01asb.";
    let other = b"\x80\x05\x8f(K\x01J\x02\0\0\0M\x03\0\x90G\0\0\0\0\0\0\0\0\x86\x8a\x02\0\x01\x96\x02\0\0\0\0\0\0\0ab\x87\x88\x89N\x85\x820(1)]}r\0\0\0\0j\0\0\0\x002.";
    let bare = fixtures(".pkl").into_iter().filter(|file| file.len() < 8192);
    let all: Vec<Vec<u8>> = [view.as_slice(), harm, text, object, other].iter().map(|pickle| pickle.to_vec()).chain(bare).collect();
    all.iter().flat_map(|pickle| [0, 1].map(|how| [&[how], pickle.as_slice()].concat())).collect()
}

fn archives() -> Vec<Vec<u8>> {
    let endings = [".pt", ".npz", ".npy", ".ckpt"];
    endings.iter().flat_map(|ending| fixtures(ending)).filter(|file| file.len() < 8192).collect()
}
