//! What readers and writers of safetensors share. Source: the format's specification and crate `safetensors` 0.8.

/// The length of the field that holds the header's length, in bytes.
pub const LENGTH_BYTES: u64 = 8;

/// The key of the header that holds metadata instead of a tensor.
pub const METADATA: &str = "__metadata__";

/// What the header is padded to, in bytes, with spaces, so that the data is aligned.
pub const ALIGNMENT: u64 = 8;

/// How the index of a sharded model ends.
pub const INDEX_ENDING: &str = ".safetensors.index.json";

/// How a file ends.
pub const ENDING: &str = ".safetensors";

/// The key of the index that maps tensor names to file names.
pub const WEIGHT_MAP: &str = "weight_map";
