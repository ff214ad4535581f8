//! What a file is and holds, as a part of a model.

use std::sync::Arc;

use crate::base::bytes::Endian;
use crate::base::text::shorten;
use crate::format::pytorch::pickle::{Id, Pickle, Value, Values};
use crate::format::pytorch::tensors::Contents;
use crate::format::set::Part;
use crate::model::TensorInfo;
use crate::model::checkpoint::{Checkpoint, training_state};
use crate::source::Source;

/// Returns the contents of a file as a part of a model.
pub(super) fn new(source: &Arc<dyn Source>, pickle: &Pickle, container: &'static str, contents: Contents) -> Part {
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

fn has_key(values: &Values, root: Id, key: &str) -> bool {
    values.item(root, key).is_some()
}

/// Returns the library that wrote a checkpoint, by the keys that it writes.
fn framework(values: &Values, root: Id) -> Option<String> {
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
    let fairseq =
        has("model") && (has("cfg") || has("args")) && (has("optimizer_history") || has("last_optimizer_state") || has("extra_state"));
    if fairseq {
        return Some("fairseq".to_owned());
    }
    let megatron = has("checkpoint_version") && has("iteration") && has("model");
    megatron.then(|| "Megatron-LM".to_owned())
}
