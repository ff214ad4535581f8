"""Small model files, byte by byte, with the standard library alone."""

import json
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_NUMBERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def value(kind, given):
    """A metadata value as GGUF lays it out; an array is given as (element type, items)."""
    if kind == STRING:
        return text(given)
    if kind == ARRAY:
        elem, items = given
        body = bytes(items) if elem in (U8, BOOL) else b"".join(value(elem, item) for item in items)
        return struct.pack("<IQ", elem, len(items)) + body
    return struct.pack("<" + _NUMBERS[kind], given)


def gguf(keys=(), tensors=(), version=3, align=32):
    """A GGUF. Keys are (key, type, value); tensors are (name, shape outermost first, bytes), of F32 where no type follows."""
    keys = list(keys) or [("general.architecture", STRING, "llama")]
    out = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(keys))]
    out += [text(key) + struct.pack("<I", kind) + value(kind, given) for key, kind, given in keys]
    at, bodies = 0, []
    for name, shape, body, *kind in tensors:
        out.append(text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1]) + struct.pack("<IQ", *(kind or [0]), at))
        padding = -len(body) % align
        bodies.append(body + bytes(padding))
        at += len(body) + padding
    head = b"".join(out)
    return head + bytes(-len(head) % align) + b"".join(bodies)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def header(entries, data=b""):
    """A safetensors file of a header as it is given: a dictionary, or text that may be no JSON."""
    entries = entries if isinstance(entries, (str, bytes)) else json.dumps(entries, ensure_ascii=False)
    entries = entries.encode() if isinstance(entries, str) else entries
    return struct.pack("<Q", len(entries)) + entries + data


def safetensors(tensors, metadata=None, dtype="F32", width=4):
    """A safetensors file: tensors are (name, shape, bytes)."""
    entries, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, shape, body in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(body)]}
        at += len(body)
    return header(entries, b"".join(body for _, _, body in tensors))


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 64, "tie_word_embeddings": False, "torch_dtype": "float32",
}


def llama():
    """The tensors of a small Llama in the names of Hugging Face, with values that differ."""
    shapes = [("model.embed_tokens.weight", (16, 8)), ("model.norm.weight", (8,)), ("lm_head.weight", (16, 8))]
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes += [(f"{at}self_attn.{part}_proj.weight", (8, 8)) for part in "qkvo"]
        shapes += [(f"{at}mlp.{part}_proj.weight", (16, 8)) for part in ("gate", "up")]
        shapes += [(f"{at}mlp.down_proj.weight", (8, 16)), (f"{at}input_layernorm.weight", (8,)), (f"{at}post_attention_layernorm.weight", (8,))]
    tensors, next_value = [], 1
    for name, shape in shapes:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors.append((name, shape, floats(*((next_value + i) % 251 / 125.0 - 1.0 for i in range(count)))))
        next_value += count
    return tensors


TOKENIZER = {
    "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "post_processor": None, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate("abcdefghijklmnop")}, "merges": []},
}


def llama_folder(path, config=None, tokenizer=None):
    """A Hugging Face folder of that model."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.safetensors").write_bytes(safetensors(llama(), {"format": "pt"}))
    (path / "config.json").write_text(json.dumps(LLAMA if config is None else config))
    if tokenizer is not False:
        (path / "tokenizer.json").write_text(json.dumps(TOKENIZER if tokenizer is None else tokenizer))
    return path
