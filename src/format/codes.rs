//! Finding codes: stable names of the rules that readers check. docs/findings.md is printed from [`CODES`].

use crate::base::finding::Severity;

macro_rules! codes {
    ($($name:ident $code:literal $severity:ident $rule:literal;)*) => {
        $(#[doc = $rule] pub const $name: &str = $code;)*

        /// Every code with the severity of a violation, and the rule.
        pub static CODES: &[(&str, Severity, &str)] = &[$(($code, Severity::$severity, $rule)),*];
    };
}

codes! {
    // Any file
    FILE_UNREADABLE "file-unreadable" Error "Every file of the model exists and can be read.";
    FILE_FOREIGN "file-foreign" Error "Every file has a format that this build supports.";
    TEMPLATE "template" Warning "A chat template does not use Python's internals.";
    // Safetensors, one file
    ST_HEADER_LENGTH "st-header-length" Error "The header's length is at most 100,000,000 bytes and inside the file.";
    ST_UTF8 "st-utf8" Error "The header is UTF-8.";
    ST_START "st-start" Error "The header starts with `{`.";
    ST_JSON "st-json" Error "The header is one JSON object of tensors, each with dtype, shape and data_offsets, without duplicate names.";
    ST_METADATA "st-metadata" Error "`__metadata__` maps strings to strings, each key once.";
    ST_DUPLICATE "st-duplicate" Error "Tensor names are unique.";
    ST_OFFSETS "st-offsets" Error "A tensor does not end before it begins.";
    ST_HOLE "st-hole" Error "Every tensor begins where the previous one ends: there are no holes.";
    ST_OVERLAP "st-overlap" Error "No two tensors share bytes.";
    ST_TYPE "st-type" Error "A tensor's type is in the specification.";
    ST_SIZE "st-size" Error "A tensor's shape and type fill its byte range exactly.";
    ST_TRUNCATED "st-truncated" Error "The file holds all bytes of every tensor.";
    ST_TRAILING "st-trailing" Error "The file ends with the last tensor.";
    ST_PADDING "st-padding" Note "The data starts at a multiple of 8 bytes.";
    ST_FIELD "st-field" Warning "A tensor has only the fields dtype, shape and data_offsets.";
    // Safetensors, several files
    INDEX_JSON "index-json" Error "The index is JSON with a weight_map from tensor names to file names, each name once.";
    INDEX_PATH "index-path" Error "The path of a shard is inside the index's folder.";
    INDEX_MISSING "index-missing" Error "Every tensor of the index is in the file that the index lists for it.";
    INDEX_UNLISTED "index-unlisted" Warning "Every tensor of the shards is in the index.";
    INDEX_TOTAL "index-total" Warning "The index's total_size is the size of all tensors.";
    SET_INCOMPLETE "set-incomplete" Error "All files of the model exist: those listed in the index, or implied by a numbered file name.";
    SET_DUPLICATE "set-duplicate" Error "No tensor is in two files of a model.";
    SET_METADATA "set-metadata" Note "The files of a model agree on their metadata.";
    CONFIG_JSON "config-json" Error "The config next to the weights is a JSON object.";
    // GGUF, one file
    GGUF_HEADER "gguf-header" Error "The header is complete: magic, version and counts.";
    GGUF_VERSION "gguf-version" Error "The version is 1, 2 or 3.";
    GGUF_VERSION_OLD "gguf-version-old" Warning "The version is 2 or 3: llama.cpp no longer reads version 1.";
    GGUF_COUNT "gguf-count" Error "The file is long enough for the keys and tensors that it claims.";
    GGUF_KEY "gguf-key" Error "A key is UTF-8, not empty, and at most 65,535 bytes long.";
    GGUF_KEY_DUPLICATE "gguf-key-duplicate" Error "Keys are unique.";
    GGUF_VALUE "gguf-value" Error "A value is of a known type, and lies inside the file.";
    GGUF_UTF8 "gguf-utf8" Error "Every string is UTF-8.";
    GGUF_BOOL "gguf-bool" Warning "A boolean is stored as 0 or 1.";
    GGUF_KEY_TYPE "gguf-key-type" Error "A key has the type that the specification and llama.cpp give it (a warning for keys that llama.cpp does not read).";
    GGUF_KEY_MISSING "gguf-key-missing" Error "A model with token embeddings has the keys that llama.cpp requires.";
    GGUF_NESTED "gguf-nested" Error "No array contains arrays, which ggml rejects.";
    GGUF_KEY_NAME "gguf-key-name" Note "Keys are ASCII.";
    GGUF_TOKENS "gguf-tokens" Error "The vocabulary arrays have one element per token (a warning if more).";
    GGUF_TOKEN_TWICE "gguf-token-twice" Error "Tokens are unique.";
    GGUF_TOKEN_ID "gguf-token-id" Warning "The IDs of special tokens are in the vocabulary.";
    GGUF_ALIGNMENT "gguf-alignment" Error "`general.alignment` is a u32 and a power of two.";
    GGUF_ALIGNMENT_SMALL "gguf-alignment-small" Warning "`general.alignment` is a multiple of 8.";
    GGUF_TENSOR "gguf-tensor" Error "A tensor's entry lies inside the file.";
    GGUF_TENSOR_NAME "gguf-tensor-name" Error "A tensor's name is UTF-8.";
    GGUF_TENSOR_LONG "gguf-tensor-name-long" Warning "A tensor's name has 1 to 63 bytes, the limit of ggml.";
    GGUF_DUPLICATE "gguf-duplicate" Error "Tensor names are unique.";
    GGUF_DIMS "gguf-dims" Error "A tensor has at most 4 dimensions.";
    GGUF_SIZE "gguf-size" Error "A tensor's row length is a multiple of the block size, its dimensions are below 2^63, and its size does not overflow.";
    GGUF_TYPE "gguf-type" Warning "A tensor's type is known.";
    GGUF_OFFSET "gguf-offset" Error "A tensor starts at a multiple of the alignment.";
    GGUF_TRUNCATED "gguf-truncated" Error "The file holds all bytes of every tensor.";
    GGUF_OVERLAP "gguf-overlap" Error "No two tensors share bytes.";
    GGUF_HOLE "gguf-hole" Error "Tensors follow each other with no more than the padding between them.";
    GGUF_ORDER "gguf-order" Error "Tensors are listed in the order of their data.";
    GGUF_TRAILING "gguf-trailing" Warning "The file ends with the last tensor and its padding.";
    GGUF_PADDING "gguf-padding" Note "The last tensor is padded to the alignment.";
    // Checks against the architecture table
    ARCH_UNKNOWN "arch-unknown" Note "This build has a table of the architecture; otherwise the tensors are not checked against it.";
    ARCH_CONFIG "arch-config" Warning "The hyperparameters that determine the number and shapes of the tensors are present.";
    ARCH_MISSING "arch-missing" Error "Every tensor that the architecture requires is present, including the output matrix unless it is tied to the embeddings.";
    ARCH_SHAPE "arch-shape" Error "A tensor has the shape implied by the hyperparameters.";
    ARCH_EXTRA "arch-extra" Warning "Every tensor belongs to the architecture.";
    ARCH_ROWS "arch-rows" Error "The token embeddings of a GGUF have exactly one row per token.";
    ARCH_TOKENS "arch-tokens" Warning "Every token of a folder's tokenizer has a row in the embeddings.";
    ARCH_TIED "arch-tied" Warning "An output matrix that is stored although it is tied to the embeddings equals them (if values are read).";
    // The values, with --data
    DATA_NAN "data-nan" Error "No value is NaN.";
    DATA_INFINITE "data-infinite" Error "No value is infinite, except in attention masks.";
    DATA_SCALE "data-scale" Error "No block scale is NaN or infinite.";
    DATA_RANGE "data-range" Error "Every code is valid for its type: booleans are 0 or 1, TQ2_0 codes at most 2, NVFP4 scales unsigned.";
    DATA_ZERO "data-zero" Warning "No matrix, and no vector other than a bias, is all zeros.";
    DATA_ZERO_RUN "data-zero-run" Warning "No run of 64 KiB or 64 rows is all zeros, as an incomplete download leaves.";
    DATA_PACKED "data-packed" Error "The values of all packed weights can be read.";
    BLOB_DIGEST "blob-digest" Error "A file of a Hugging Face or Ollama download matches its recorded digest (if values are read).";
    // With --manifest
    MANIFEST_DIGEST "manifest-digest" Error "Every digest matches the manifest.";
    MANIFEST_NAME "manifest-name" Note "The manifest lists a file under its present name.";
    MANIFEST_ENTRY "manifest-entry" Warning "The model and the manifest list the same entries.";
    // Importance matrices in the legacy format
    IMATRIX_ENTRY "imatrix-entry" Error "Every entry has a unique name and lies inside the file.";
    // Zip archives
    ZIP_DIRECTORY "zip-directory" Error "The central directory is complete, and every entry lies before it.";
    ZIP_HEADER "zip-header" Error "The local header of an entry agrees with the central directory.";
    ZIP_DUPLICATE "zip-duplicate" Error "Entry names are unique.";
    ZIP_OVERLAP "zip-overlap" Error "No two entries share bytes.";
    ZIP_PATH "zip-path" Error "Entry names do not lead out of the folder.";
    ZIP_ENTRY "zip-entry" Error "Every entry that is read is stored or deflated, and not encrypted.";
    ZIP_CRC "zip-crc" Error "The bytes of an entry match its CRC-32 (of tensors, if values are read).";
    // Pickles
    PICKLE_MALFORMED "pickle-malformed" Error "A pickle is complete, of protocol 0 to 5, and its opcodes have the operands that they need.";
    PICKLE_IMPORT "pickle-import" Error "Loading a pickle executes nothing: it refers only to classes and functions that are known to be harmless (a warning for unknown ones).";
    PICKLE_NESTED "pickle-nested" Warning "No pickle is hidden in the bytes of another, or in another entry of the archive.";
    PICKLE_TRAILING "pickle-trailing" Error "Nothing follows a pickle (a warning for bytes that are not a pickle).";
    // PyTorch
    PT_RECORD "pt-record" Error "An archive has a data.pkl.";
    PT_CODE "pt-code" Error "An archive has no program code (TorchScript).";
    PT_STORAGE "pt-storage" Error "Every storage has a known class, is in the file, and is as long as the pickle says.";
    PT_TENSOR "pt-tensor" Error "A tensor's shape, strides and offset lie inside its storage.";
    PT_TRUNCATED "pt-truncated" Error "The file holds all bytes of every tensor.";
    PT_UNREAD "pt-unread" Note "The values of every tensor can be read.";
    // NumPy
    NPY_HEADER "npy-header" Error "The header of an array is a dictionary with descr, fortran_order and shape.";
    NPY_DTYPE "npy-dtype" Warning "The elements of an array are numbers that can be read.";
    NPY_SIZE "npy-size" Error "The size of an array's data matches its shape.";
    // GGUF, several files
    SPLIT_KEYS "split-keys" Error "Every part of a split file has split.no, split.count and split.tensors.count, consistent with its file name.";
    SPLIT_NAME "split-name" Warning "A file named like part of a split has the split keys.";
    SPLIT_PART "split-part" Error "All parts of a split file exist.";
    SPLIT_TENSORS "split-tensors" Error "The parts contain split.tensors.count tensors in total.";
    SPLIT_CONFLICT "split-conflict" Error "The parts of a split file agree on their metadata and byte order.";
}

/// Rules that only `verify` checks, and that do not prevent opening: they are expensive to check, or specific to ggml.
pub const VERIFY_ONLY: &[&str] = &[
    GGUF_UTF8,
    GGUF_NESTED,
    GGUF_KEY_TYPE,
    GGUF_KEY_MISSING,
    GGUF_TOKENS,
    GGUF_TOKEN_TWICE,
    GGUF_HOLE,
    GGUF_ORDER,
    SET_INCOMPLETE,
    ST_TYPE,
    ZIP_HEADER,
    ZIP_PATH,
    ZIP_CRC,
    PICKLE_IMPORT,
    PICKLE_TRAILING,
    PT_CODE,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique() {
        let codes: HashSet<_> = CODES.iter().map(|(code, ..)| code).collect();
        assert_eq!(codes.len(), CODES.len());
    }
}
