//! All limits on untrusted input, in one place.

use std::time::Duration;

/// Maximum length of a safetensors header in bytes; the same as in the safetensors crate 0.8.
pub const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;

/// Maximum length of a header that is fetched from a remote source, in bytes. Headers in use have about 10 MB.
pub const HEADER_BYTES: u64 = 1 << 30;

/// Maximum nesting depth of JSON; the same as in serde_json.
pub const JSON_DEPTH: usize = 128;

/// Maximum size of a JSON file of the model (config, index, tokenizer), in bytes.
pub const JSON_FILE_BYTES: u64 = 256 << 20;

/// Maximum length of a GGUF metadata key in bytes, as in the GGUF specification.
pub const GGUF_KEY_BYTES: u64 = 65_535;

/// Maximum length of a tensor name that is parsed for its role in the model, in bytes. Names in use have about a hundred.
pub const NAME_BYTES: usize = 4_096;

/// Maximum number of dimensions of a GGUF tensor: `GGML_MAX_DIMS` in ggml.h.
pub const GGUF_DIMS: u32 = 4;

/// Maximum nesting depth of GGUF arrays.
pub const GGUF_ARRAY_DEPTH: usize = 4;

/// Maximum alignment of the GGUF files that weigh writes, in bytes: padding precedes the first tensor and follows each. Files in use have
/// 32, or a few thousand for direct I/O by devices.
pub const GGUF_ALIGNMENT: u64 = 1 << 24;

/// Maximum number of dimensions of an original shape kept in metadata: PyTorch's limit.
pub const ORIGINAL_DIMS: u64 = 64;

/// Maximum number of shards of a model.
pub const SHARDS: usize = 10_000;

/// Maximum number of layers of which caches are computed: `LLAMA_MAX_LAYERS` in llama.cpp.
pub const LAYERS: u64 = 512;

/// Maximum number of compute threads. More do not help: a thousand take seconds for a file of a few kilobytes.
pub const THREADS: usize = 256;

/// Maximum size of a chunk of a tensor in streaming operations, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Maximum time that an in-place change waits for another program's lock on the model.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Maximum number of retries if a model changes while it is opened.
pub const REOPENINGS: usize = 10;

/// Maximum number of findings per pass over a file.
pub const FINDINGS: usize = 1_000;

/// Maximum size of a vocabulary, in tokens. The largest in use have about 262,000; this many take 130 MB.
pub const VOCABULARY: u64 = 1 << 21;

/// Maximum number of layers, experts and elements per head in a config: lists of this length are allocated.
pub const PARTS: u64 = 1 << 16;

/// Maximum total length of the architecture table expressions evaluated for one model, in bytes. Existing tables need about 10 kB.
pub const EXPRESSION_BYTES: u64 = 1 << 24;

/// Maximum length of an error message, in characters: what it quotes may be as long as a file.
pub const MESSAGE_CHARS: usize = 1_000;

/// Maximum number of names that a mistyped one is compared with.
pub const NAMES_COMPARED: usize = 100_000;
