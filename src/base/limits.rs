//! Every limit that weigh puts on what it reads, in one place.

use std::time::Duration;

/// The longest safetensors header, in bytes: the limit of the safetensors crate, 0.8.
pub const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;

/// The longest header that is fetched of a source that is not at hand, in bytes. Those in use have some 10 MB.
pub const HEADER_BYTES: u64 = 1 << 30;

/// The deepest nesting of JSON that is followed, in levels: serde_json's own limit is the same.
pub const JSON_DEPTH: usize = 128;

/// The largest JSON file beside the weights (config, index, tokenizer) that is read, in bytes.
pub const JSON_FILE_BYTES: u64 = 256 << 20;

/// The longest GGUF metadata key, in bytes: the GGUF specification.
pub const GGUF_KEY_BYTES: u64 = 65_535;

/// The longest tensor name that tells where in a model the tensor belongs, in bytes: names in use have some hundred.
pub const NAME_BYTES: usize = 4_096;

/// The most dimensions of a GGUF tensor: `GGML_MAX_DIMS` in ggml.h.
pub const GGUF_DIMS: u32 = 4;

/// The deepest nesting of GGUF arrays that is followed, in levels.
pub const GGUF_ARRAY_DEPTH: usize = 4;

/// The most bytes that the tensors of a GGUF that weigh writes are aligned to: padding comes before the first and after each. Files
/// are aligned to 32, and to a few thousand where a device reads them.
pub const GGUF_ALIGNMENT: u64 = 1 << 24;

/// The most dimensions of an original shape that metadata gives back: those of a PyTorch tensor.
pub const ORIGINAL_DIMS: u64 = 64;

/// The most shards of one model.
pub const SHARDS: usize = 10_000;

/// The most threads that compute. More of them only wait for each other: a thousand take seconds over a file of a few kilobytes.
pub const THREADS: usize = 256;

/// The most bytes of one tensor that an operation holds at a time, while it streams.
pub const CHUNK_BYTES: usize = 1 << 20;

/// How long a lock that another program holds on a model is waited for, before it is changed in its place.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How often a model is opened anew that changed while it was opened.
pub const REOPENINGS: usize = 10;

/// The most findings that are collected from one walk over a file.
pub const FINDINGS: usize = 1_000;

/// The most tokens of a vocabulary. The largest in use have about 262,000; so many take 130 MB.
pub const VOCABULARY: u64 = 1 << 21;

/// The most layers, experts, and elements of a head that a config may have: lists are made of so many.
pub const PARTS: u64 = 1 << 16;

/// The most bytes of expressions of an architecture table that are evaluated for one model. The tables in use take some 10 kB.
pub const EXPRESSION_BYTES: u64 = 1 << 24;

/// The most characters of an error message: what it quotes may be as long as a file.
pub const MESSAGE_CHARS: usize = 1_000;

/// The most names that a mistyped one is compared with.
pub const NAMES_COMPARED: usize = 100_000;
