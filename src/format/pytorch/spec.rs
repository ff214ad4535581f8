//! Names of files of checkpoints.

/// File name suffix of a shard.
pub(crate) const ENDING: &str = ".bin";

/// File name suffix of the index of a sharded model.
pub(crate) const INDEX_ENDING: &str = ".bin.index.json";

/// The name of the file that describes a distributed checkpoint.
pub(crate) const DCP_METADATA: &str = ".metadata";

/// File name suffix of the chunks of a distributed checkpoint.
pub(crate) const DCP_ENDING: &str = ".distcp";

/// File name suffix of the optimizer states of a process, of DeepSpeed.
pub(crate) const ZERO_ENDING: &str = "_optim_states.pt";
