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

/// Maximum number of files and folders that a catalogue looks at.
pub const CATALOG_ENTRIES: usize = 20_000_000;

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

/// Number of bytes that the first request for a remote file asks for: more than most safetensors headers have.
pub const FIRST_BYTES: u64 = 64 << 10;

/// Maximum number of redirects that a request follows.
pub const REDIRECTS: usize = 5;

/// Maximum number of times that a failed request is repeated.
pub const RETRIES: usize = 4;

/// Wait before a failed request is repeated; it doubles each time.
pub const RETRY_WAIT: Duration = Duration::from_millis(250);

/// Maximum total time of a request and its repetitions, waits that a server asks for included.
pub const RETRY_TIME: Duration = Duration::from_secs(120);

/// Time without any byte from a server after which a request fails; the same as in huggingface_hub.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Maximum time of one request, in addition to that of its bytes at [`LEAST_BYTES_PER_SECOND`].
pub const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Rate below which a server is too slow, in bytes per second.
pub const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;

/// Maximum size of a page of a list of remote files, in bytes.
pub const LISTING_BYTES: u64 = 16 << 20;

/// Maximum number of pages of a list of remote files.
pub const LISTING_PAGES: usize = 100;

/// Maximum number of remote files whose first bytes are requested at the same time.
pub const REQUESTS: usize = 32;

/// Maximum number of remote files whose first bytes are kept in memory until their headers are parsed.
pub const PREFETCHED_FILES: usize = 512;

/// Minimum size of a part of an upload except the last, in bytes: buckets ask for at least 5 MiB.
pub const UPLOAD_PART_BYTES: u64 = 8 << 20;

/// Maximum number of parts of an upload: the least that a bucket takes.
pub const UPLOAD_PARTS: u64 = 10_000;

/// Maximum size of the parts that are sent at the same time, in bytes, unless one alone is larger.
pub const UPLOAD_BYTES: u64 = 64 << 20;

/// Maximum size of a token file, in bytes.
pub const TOKEN_BYTES: u64 = 4096;

/// Maximum gap between two ranges of a remote file that are read as one, in bytes.
pub const GAP_BYTES: u64 = 64 << 10;

/// Maximum size of the parts of remote files that were asked for ahead of their readers, in bytes.
pub const READ_AHEAD_BYTES: u64 = 64 << 20;

/// Memory that is kept for the next parts of remote files, in bytes.
pub const SPARE_BYTES: usize = 16 << 20;

/// Maximum size of a header in the header cache, in bytes.
pub const CACHED_HEADER_BYTES: u64 = 32 << 20;

/// Maximum size of the header cache, in bytes.
pub const HEADER_CACHE_BYTES: u64 = 512 << 20;

/// Maximum number of entries of a zip or tar archive.
pub const ARCHIVE_ENTRIES: u64 = 1 << 18;

/// Maximum size of the central directory of a zip archive, in bytes.
pub const ARCHIVE_DIRECTORY_BYTES: u64 = 32 << 20;

/// Maximum number of states of the decompressor that are kept to read deflated entries from the middle; each takes 43 kB.
pub const INFLATE_STATES: u64 = 1 << 10;

/// Maximum memory for the values of a pickle, in bytes as counted by the machine. A tensor of a checkpoint takes about 800.
pub const PICKLE_MEMORY: usize = 80 << 20;

/// Maximum size of a tensor whose elements are stored once and repeated, in bytes: a few bytes could stand for work without end.
pub const REPEATED_BYTES: u64 = 64 << 30;

/// Maximum number of opcodes of a pickle.
pub const PICKLE_OPCODES: u64 = 1 << 26;

/// Maximum length of a string of a pickle that is kept, in bytes. Longer ones stay in the file.
pub const PICKLE_TEXT_BYTES: u64 = 1 << 16;

/// Maximum nesting depth of the containers of a pickle.
pub const PICKLE_DEPTH: usize = 200;

/// Maximum number of values visited in a pickle, where containers may be shared.
pub const PICKLE_VISITS: u64 = 1 << 21;

/// Maximum number of pickles in one file.
pub const PICKLES: usize = 1 << 16;

/// Maximum total length of the tensor names of a pickle, in bytes.
pub const PICKLE_NAMES_BYTES: usize = 32 << 20;

/// Maximum size of an array that a pickle holds as text, in bytes: it is decoded to memory.
pub const PICKLE_TEXT_ARRAY_BYTES: u64 = 16 << 20;

/// Maximum number of tensors, plain values and opaque values of a pickle.
pub const PICKLE_TENSORS: usize = 1 << 18;

/// Maximum number of plain values of a checkpoint that are kept as metadata.
pub const CHECKPOINT_VALUES: usize = 1_000;

/// Maximum number of dimensions of a tensor of PyTorch or NumPy; both allow 64.
pub const TENSOR_DIMS: usize = 64;
