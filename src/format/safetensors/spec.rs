//! Constants shared by readers and writers of safetensors. Source: the format's specification and crate `safetensors` 0.8.

/// The size of the header length field in bytes.
pub const LENGTH_BYTES: u64 = 8;

/// The header key for metadata.
pub const METADATA: &str = "__metadata__";

/// The multiple of bytes to which the header is padded with spaces, to align the data.
pub const ALIGNMENT: u64 = 8;

/// File name suffix of the index of a sharded model.
pub const INDEX_ENDING: &str = ".safetensors.index.json";

/// File name suffix.
pub const ENDING: &str = ".safetensors";

/// The index key that maps tensor names to file names.
pub const WEIGHT_MAP: &str = "weight_map";
