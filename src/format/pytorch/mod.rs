//! Checkpoints of PyTorch: zip archives of today, files from before 1.6, tar archives from before 0.1.10, and bare pickles. They are parsed
//! and never executed: a checkpoint that would run something opens as any other, and `verify` says what it would run.

use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::Endian;
use crate::base::finding::{Findings, Severity};
use crate::base::json::without_bom;
use crate::base::text::shorten;
use crate::base::{Error, Result};
use crate::format::safetensors::index;
use crate::format::set::{ConflictRule, Part, check_truncated, is_cut, join, read_all};
use crate::format::{Format, Reader, codes, start_of};
use crate::model::checkpoint::{Checkpoint, training_state};
use crate::model::{FormatId, TensorInfo};
use crate::source::file::Input;
use crate::source::{Prefix, Source};

mod archive;
mod callables;
mod legacy;
mod pickle;
mod quantised;
mod scan;
mod sparse;
mod tar;
mod tensors;

use pickle::{Pickle, Value, Values};
use tensors::Contents;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: FormatId::PyTorch,
    extensions: &["pt", "pth", "bin", "ckpt", "pkl", "bin.index.json"],
    probe,
    open,
    layout: None,
    edit: None,
    stores: |dtype| dtype.info().safetensors.is_some_and(|name| !name.starts_with("F6")),
};

/// File name suffix of the index of a sharded model.
pub(crate) const INDEX_ENDING: &str = ".bin.index.json";

/// File name suffix of its shards.
pub(crate) const ENDING: &str = ".bin";

/// Recognises a zip archive, a pickle with a protocol, a tar archive, or an index of such.
fn probe(start: &[u8], _: u64) -> u8 {
    match start {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => 90,
        [0x80, 2..=5, ..] => 85,
        _ if tar::is_tar(start) => 80,
        _ if is_index(start) => 85,
        _ => 0,
    }
}

/// Whether the file is an index whose files are checkpoints.
fn is_index(start: &[u8]) -> bool {
    let has = |text: &[u8]| start.windows(text.len()).any(|window| window == text);
    without_bom(start).trim_ascii_start().starts_with(b"{") && has(b"\"weight_map\"") && (has(b".bin\"") || has(b".pt\"")) && !has(b".safetensors\"")
}

const CONFLICT: ConflictRule = ConflictRule { code: codes::SET_METADATA, severity: Severity::Note, except: |_| false };

fn open(file: Prefix, findings: &mut Findings) -> Result<Reader> {
    let path = file.path().to_path_buf();
    let on_disk = file.source().file();
    let index = if is_index(&start_of(&file)?) {
        let alone = || Error::unsupported("the index has no weight files next to it").in_file(&path);
        Some(on_disk.ok_or_else(alone)?.clone())
    } else {
        on_disk.and_then(|_| index::index_of(&path, INDEX_ENDING)).map(|index| Input::of(&index)).transpose()?
    };
    let parts = match &index {
        Some(index) => index::read_set(index.path(), read_one, findings)?,
        None => read_all(file, read_one, findings)?,
    };
    Ok(join(FORMAT.id, &path, parts, CONFLICT, findings)?.with_inputs(index))
}

/// Reads a single file, ignoring other files in the folder.
pub(super) fn read_one(file: Prefix, findings: &mut Findings) -> Result<Part> {
    let start = start_of(&file)?.into_owned();
    let source = file.into_source();
    let mut part = if start.starts_with(b"PK") {
        archive::read(&source, findings)?
    } else if tar::is_tar(&start) {
        tar::read(&source, findings)?
    } else {
        legacy::read(&source, findings)?
    };
    part.tensors.sort_by_key(|tensor| tensor.offset_bytes);
    check_truncated(&part.tensors, source.len(), 0, source.path(), codes::PT_TRUNCATED, findings)?;
    if findings.collects() {
        let len = source.len();
        let cut = |tensor: &TensorInfo| is_cut(tensor, len, 0) && !part.computed.contains_key(&tensor.name);
        let names: Vec<String> = part.tensors.iter().filter(|tensor| cut(tensor)).map(|tensor| tensor.name.clone()).collect();
        part.tensors.retain(|tensor| !names.contains(&tensor.name));
        for unread in part.checkpoint.iter().flat_map(|checkpoint| &checkpoint.unread) {
            let error = Error::unsupported(format!("its values are not read: {}", unread.reason));
            findings.remark(Severity::Note, codes::PT_UNREAD, error.in_tensor(&unread.name).in_file(source.path()));
        }
    }
    Ok(part)
}

/// Returns the contents of a file as a part of a model.
fn part(source: &Arc<dyn Source>, pickle: &Pickle, container: &'static str, contents: Contents) -> Part {
    let Contents { tensors, computed, metadata, opaque, unread, shared } = contents;
    let kind = kind(pickle, &tensors);
    let framework = framework(&pickle.values, pickle.root);
    let mut checkpoint = Checkpoint::default();
    (checkpoint.kind, checkpoint.container, checkpoint.framework) = (kind.to_owned(), container, framework);
    (checkpoint.opaque, checkpoint.unread, checkpoint.shared) = (opaque, unread, shared);
    let mut part = Part::new(Arc::clone(source), tensors, metadata, Endian::Little);
    (part.computed, part.checkpoint) = (computed, Some(checkpoint));
    part
}

/// Returns what a checkpoint is.
fn kind(pickle: &Pickle, tensors: &[TensorInfo]) -> &'static str {
    let values = &pickle.values;
    let state = values.object(pickle.root).and_then(|object| object.state);
    if state.is_some_and(|state| values.item(state, "_modules").is_some()) {
        return "module";
    }
    if tensors.iter().any(|tensor| training_state(&tensor.name).is_some()) || has_key(values, pickle.root, "optimizer_states") {
        return "training checkpoint";
    }
    match tensors {
        [] => "values without tensors",
        [_] if values.dict(pickle.root).is_none() => "tensor",
        _ => "state dict",
    }
}

fn has_key(values: &Values, root: pickle::Id, key: &str) -> bool {
    values.item(root, key).is_some()
}

/// Returns the library that wrote a checkpoint, by the keys that it writes.
fn framework(values: &Values, root: pickle::Id) -> Option<String> {
    let version = |key: &str| match values.item(root, key).map(|id| (values.get(id), id)) {
        Some((Value::Text { .. }, id)) => values.text(id).map(|version| format!(" {version}")),
        Some(_) => Some(String::new()),
        None => None,
    };
    let has = |key: &str| has_key(values, root, key);
    let known = [("pytorch-lightning_version", "PyTorch Lightning"), ("ds_version", "DeepSpeed"), ("megatron_version", "Megatron-LM")];
    if let Some(found) = known.iter().find_map(|(key, name)| version(key).map(|version| format!("{name}{version}"))) {
        return Some(shorten(&found).into_owned());
    }
    let fairseq = has("model") && (has("cfg") || has("args")) && (has("optimizer_history") || has("last_optimizer_state") || has("extra_state"));
    if fairseq {
        return Some("fairseq".to_owned());
    }
    let megatron = has("checkpoint_version") && has("iteration") && has("model");
    megatron.then(|| "Megatron-LM".to_owned())
}

/// Where the bytes of a pickle are: in the file, or in an entry of an archive that is decoded.
#[derive(Debug, Clone, Copy)]
struct Whence<'w> {
    path: &'w Path,
    /// The entry of the archive.
    entry: Option<&'w str>,
    in_file: bool,
}

impl Whence<'_> {
    /// Adds the file and, if it has one there, the offset to an error.
    fn locate(&self, error: Error, at: u64) -> Error {
        let error = if self.in_file { error.at(at) } else { error };
        let error = match self.entry {
            Some(entry) if !self.in_file => error.context(&format!("{}, byte {at} when decoded", shorten(entry))),
            _ => error,
        };
        error.in_file(self.path)
    }
}
