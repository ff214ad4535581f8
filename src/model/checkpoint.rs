//! What a PyTorch checkpoint is and holds besides tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

/// Facts about a checkpoint of PyTorch.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Kind: `state dict`, `training checkpoint`, `module`, `TorchScript module`.
    pub kind: String,
    /// Container: `zip archive`, `legacy file`, `tar archive`, `pickle`.
    pub container: &'static str,
    /// The library that wrote it, with its version, if it says so.
    pub framework: Option<String>,
    /// Tensors that share their memory with another, which counts: the name of each and of the other.
    pub tied: Vec<Tied>,
    /// Objects of classes that are not read: only their names are known.
    pub opaque: Vec<Opaque>,
    /// Tensors whose values are not read, with the reason.
    pub unread: Vec<Unread>,
    /// The memory of tensors that share some.
    #[serde(skip)]
    pub shared: Vec<Shared>,
}

/// A tensor that shares its memory with another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tied {
    /// Its name.
    pub name: String,
    /// The name of the tensor that stands for both.
    pub to: String,
}

/// An object of a class that is not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Opaque {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its class, or the function that would make it.
    pub callable: String,
}

/// A tensor whose values are not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unread {
    /// Its name.
    pub name: String,
    /// The reason.
    pub reason: String,
}

/// The memory of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shared {
    /// The name of the tensor.
    pub name: String,
    /// The number of its storage.
    pub storage: u64,
    /// Its bytes in the storage.
    pub bytes: Range<u64>,
    /// Whether it is all of the storage, in order.
    pub whole: bool,
}

impl Opaque {
    /// Returns an object of this name and class.
    pub fn new(name: impl Into<String>, callable: impl Into<String>) -> Self {
        Self { name: name.into(), callable: callable.into() }
    }
}

impl Unread {
    /// Returns a tensor of this name that is not read.
    pub fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

impl Shared {
    /// Returns the memory of a tensor.
    pub fn new(name: impl Into<String>, storage: u64, bytes: Range<u64>, whole: bool) -> Self {
        Self { name: name.into(), storage, bytes, whole }
    }
}

impl Checkpoint {
    /// Finds the tied tensors as safetensors' `save_model` does: of tensors that overlap in a storage, the first by name among those that
    /// are all of it stands for the others. If none is all of it, all are kept.
    pub fn find_tied(&mut self) {
        let mut storages: BTreeMap<u64, Vec<&Shared>> = BTreeMap::new();
        self.shared
            .iter()
            .filter(|shared| !shared.bytes.is_empty())
            .for_each(|shared| storages.entry(shared.storage).or_default().push(shared));
        let mut tied = Vec::new();
        for group in storages.values_mut() {
            group.sort_by(|a, b| (a.bytes.start, a.bytes.end, &a.name).cmp(&(b.bytes.start, b.bytes.end, &b.name)));
            let mut end = 0;
            for overlapping in group.chunk_by(|a, b| {
                end = a.bytes.end.max(end);
                b.bytes.start < end
            }) {
                let Some(kept) = overlapping.iter().filter(|shared| shared.whole).map(|shared| &shared.name).min() else { continue };
                let others = overlapping.iter().filter(|shared| shared.name != *kept);
                tied.extend(others.map(|shared| Tied { name: shared.name.clone(), to: kept.clone() }));
            }
        }
        tied.sort_by(|a, b| a.name.cmp(&b.name));
        self.tied = tied;
    }

    /// Returns the checkpoint below `root` (a name with its dot at the end), with names without it.
    #[must_use]
    pub fn under(&self, root: &str) -> Self {
        let cut = |name: &str| name.strip_prefix(root).map(str::to_owned);
        let mut checkpoint = Self {
            kind: self.kind.clone(),
            container: self.container,
            framework: self.framework.clone(),
            tied: Vec::new(),
            opaque: self.opaque.iter().filter_map(|opaque| Some(Opaque { name: cut(&opaque.name)?, ..opaque.clone() })).collect(),
            unread: self.unread.iter().filter_map(|unread| Some(Unread { name: cut(&unread.name)?, ..unread.clone() })).collect(),
            shared: self.shared.iter().filter_map(|shared| Some(Shared { name: cut(&shared.name)?, ..shared.clone() })).collect(),
        };
        checkpoint.find_tied();
        checkpoint
    }
}

/// The kind of a tensor of a training checkpoint that is not a weight of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingState {
    /// Of an optimizer.
    Optimizer,
    /// Of a scheduler, a random number generator, a loop.
    Other,
    /// A moving average of the weights, kept beside them.
    Average,
}

/// The keys of training checkpoints under which no weights are, in lower case. Sources: PyTorch Lightning, DeepSpeed, fairseq, Accelerate,
/// timm, Megatron-LM, and the examples of PyTorch.
static KEYS: &[(&str, TrainingState)] = &[
    ("optimizer", TrainingState::Optimizer),
    ("optimizers", TrainingState::Optimizer),
    ("optimizer_state", TrainingState::Optimizer),
    ("optimizer_states", TrainingState::Optimizer),
    ("optimizer_state_dict", TrainingState::Optimizer),
    ("last_optimizer_state", TrainingState::Optimizer),
    ("base_optimizer_state", TrainingState::Optimizer),
    ("optim", TrainingState::Optimizer),
    ("optim_state", TrainingState::Optimizer),
    ("optim_state_dict", TrainingState::Optimizer),
    ("opt", TrainingState::Optimizer),
    ("opt_state", TrainingState::Optimizer),
    ("scheduler", TrainingState::Other),
    ("schedulers", TrainingState::Other),
    ("scheduler_state_dict", TrainingState::Other),
    ("lr_scheduler", TrainingState::Other),
    ("lr_schedulers", TrainingState::Other),
    ("lr_scheduler_state_dict", TrainingState::Other),
    ("scaler", TrainingState::Other),
    ("grad_scaler", TrainingState::Other),
    ("amp", TrainingState::Other),
    ("amp_scaler", TrainingState::Other),
    ("amp_scaling_state", TrainingState::Other),
    ("callbacks", TrainingState::Other),
    ("loops", TrainingState::Other),
    ("rng_state", TrainingState::Other),
    ("rng_states", TrainingState::Other),
    ("random_states", TrainingState::Other),
    ("torch_rng_state", TrainingState::Other),
    ("cuda_rng_state", TrainingState::Other),
    ("random_rng_state", TrainingState::Other),
    ("np_rng_state", TrainingState::Other),
    ("extra_state", TrainingState::Other),
    ("ema", TrainingState::Average),
    ("ema_model", TrainingState::Average),
    ("ema_state_dict", TrainingState::Average),
    ("model_ema", TrainingState::Average),
    ("state_dict_ema", TrainingState::Average),
    ("params_ema", TrainingState::Average),
];

/// Returns what the first key of a tensor's name says that it is, if it is no weight of the model.
pub fn training_state(name: &str) -> Option<TrainingState> {
    let key = name.split('.').next()?.to_ascii_lowercase();
    KEYS.iter().find(|(known, _)| *known == key).map(|(_, state)| *state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_tensors_that_share_memory_the_first_whole_one_is_kept() {
        let shared = vec![
            Shared::new("lm_head", 0, 0..8, true),
            Shared::new("embed", 0, 0..8, true),
            Shared::new("part", 0, 4..8, false),
            Shared::new("a", 1, 0..4, false),
            Shared::new("b", 1, 4..8, false),
            Shared::new("c", 2, 0..6, false),
            Shared::new("d", 2, 2..8, false),
            Shared::new("qkv", 3, 0..12, true),
            Shared::new("q", 3, 0..4, false),
            Shared::new("k", 3, 4..8, false),
            Shared::new("v", 3, 8..12, false),
        ];
        let mut checkpoint = Checkpoint { shared, ..Checkpoint::default() };
        checkpoint.find_tied();
        let tied: Vec<_> = checkpoint.tied.iter().map(|tied| (tied.name.as_str(), tied.to.as_str())).collect();
        assert_eq!(tied, [("k", "qkv"), ("lm_head", "embed"), ("part", "embed"), ("q", "qkv"), ("v", "qkv")]);
    }

    #[test]
    fn the_first_key_tells_training_state_from_weights() {
        assert_eq!(training_state("optimizer.state.0.exp_avg"), Some(TrainingState::Optimizer));
        assert_eq!(training_state("optimizer_weight"), None);
        assert_eq!(training_state("state_dict.optimizer.weight"), None);
    }
}
