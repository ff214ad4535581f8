//! Recognises files of unsupported formats by their first bytes, so that the error can name the format.

use crate::base::json::without_bom;
use crate::base::{Error, ErrorKind};

/// A foreign format, and what to do about it.
struct Foreign {
    /// Offset of the bytes.
    at: usize,
    bytes: &'static [u8],
    what: &'static str,
    hint: &'static str,
}

const CONVERT: &str = "convert it to safetensors with the library that wrote it";
const UNPACK: &str = "unpack it first";
const DOWNLOAD: &str = "download the file again: the server sent a page instead";
const LEGACY: &str = "convert it to GGUF with an older llama.cpp";

static FOREIGN: &[Foreign] = &[
    Foreign { at: 0, bytes: b"version https://git-lfs", what: "a Git LFS pointer", hint: "fetch the file itself: git lfs pull" },
    Foreign { at: 0, bytes: b"\x89HDF\r\n\x1a\n", what: "an HDF5 file (Keras or TensorFlow)", hint: CONVERT },
    Foreign { at: 0, bytes: b"lmgg", what: "a GGML file from before GGUF", hint: LEGACY },
    Foreign { at: 0, bytes: b"fmgg", what: "a GGMF file from before GGUF", hint: LEGACY },
    Foreign { at: 0, bytes: b"tjgg", what: "a GGJT file from before GGUF", hint: LEGACY },
    Foreign { at: 0, bytes: b"algg", what: "a GGLA adapter from before GGUF", hint: LEGACY },
    Foreign { at: 4, bytes: b"TFL3", what: "a TensorFlow Lite model", hint: CONVERT },
    Foreign { at: 0, bytes: b"\x1f\x8b", what: "a gzip file", hint: UNPACK },
    Foreign { at: 0, bytes: b"\x28\xb5\x2f\xfd", what: "a zstd file", hint: UNPACK },
    Foreign { at: 0, bytes: b"\xfd7zXZ\0", what: "an xz file", hint: UNPACK },
    Foreign { at: 0, bytes: b"BZh", what: "a bzip2 file", hint: UNPACK },
];

/// Returns an error that names the format if the file is of a known foreign format.
pub(crate) fn recognise(start: &[u8], len: u64) -> Option<Error> {
    let error = |what: &str, hint: &str| Some(Error::new(ErrorKind::Unsupported, format!("not supported: {what}")).hint(hint));
    if len == 0 {
        return Some(Error::malformed("the file is empty").hint("was the download complete?"));
    }
    if let Some(found) = FOREIGN.iter().find(|foreign| start.get(foreign.at..).is_some_and(|rest| rest.starts_with(foreign.bytes))) {
        return error(found.what, found.hint);
    }
    if is_page(start) {
        return error("a web page", DOWNLOAD);
    }
    if is_onnx(start) {
        return error("an ONNX model", CONVERT);
    }
    if start.len() >= 64 && start.iter().all(|&byte| byte == 0) {
        return Some(
            Error::malformed("the file contains only zeros").hint("it was allocated but never written: was the download complete?"),
        );
    }
    None
}

fn is_page(start: &[u8]) -> bool {
    let text = without_bom(start.get(..256).unwrap_or(start)).trim_ascii_start().to_ascii_lowercase();
    ["<!doctype", "<html", "<head", "<?xml", "<!--"].iter().any(|tag| text.starts_with(tag.as_bytes()))
}

/// Recognises ONNX: a protocol buffer with field 1 (IR version, a small number), then field 2 (producer name).
fn is_onnx(start: &[u8]) -> bool {
    match start {
        [0x08, version, 0x12, len, name @ ..] => {
            (1..=32).contains(version)
                && name.get(..usize::from(*len)).is_some_and(|name| name.iter().all(|byte| (0x20..0x7f).contains(byte)))
        }
        _ => false,
    }
}
