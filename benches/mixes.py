#!/usr/bin/env python3
"""Measures the loss of type mixes: the KL divergence reported by llama-perplexity, and weigh's error measures.

    python3 benches/mixes.py train --work DIR                         # two small models, trained for some minutes (torch, transformers)
    python3 benches/mixes.py run --work DIR --llama BIN --weigh PROGRAM [--gguf NAME=FILE ...]
    python3 benches/mixes.py table --work DIR

`run` writes DIR/results.json after every mix and goes on where it stopped. BIN has llama-quantize, llama-imatrix, llama-perplexity.
"""
import argparse, json, math, os, pathlib, pydoc_data.topics, random, re, subprocess, sys

CONTEXT = 256
THREADS = 1  # those of llama.cpp spin while they wait for each other
STANDARD = ["Q3_K_M", "Q4_K_M", "Q5_K_M"]


def texts(work):
    """Python's own reference, in English: all but its last part to train on and to measure importance on; of the last, 4,000 tokens or so."""
    topics = pydoc_data.topics.topics
    whole = "\n\n".join(topics[name] for name in sorted(topics))
    whole = re.sub(r"[ \t]+", " ", whole)
    (work / "train.txt").write_text(whole[:-60_000])
    (work / "importance.txt").write_text(whole[100_000:140_000])
    (work / "test.txt").write_text(whole[-16_000:])


def train(work, steps):
    """Trains a Llama and a Qwen 3 of six layers, and gives them channels of very different sizes, as large models have: the scale of a
    channel moves from the weights that follow a norm into the norm."""
    import torch, tokenizers, transformers
    texts(work)
    torch.manual_seed(7)
    text = (work / "train.txt").read_text()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=2048, special_tokens=["<|endoftext|>"],
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    ids = torch.tensor(tokenizer.encode(text).ids)
    sizes = dict(vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
    made = {
        "llama": transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=False)),
        "qwen3": transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes, head_dim=64, tie_word_embeddings=True)),
    }
    for name, model in made.items():
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        for step in range(steps):
            starts = torch.randint(0, len(ids) - 129, (4,))
            batch = torch.stack([ids[start:start + 128] for start in starts.tolist()])
            loss = model(input_ids=batch, labels=batch).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 0 or step == steps - 1:
                print(name, step, round(loss.item(), 3), flush=True)
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for layer in model.model.layers:
                attention, mlp = layer.self_attn, layer.mlp
                for norm, readers in [(layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]),
                                      (layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj])]:
                    scale = torch.exp(torch.randn(norm.weight.shape, generator=generator) * 0.8)
                    norm.weight *= scale
                    for reader in readers:
                        reader.weight /= scale
        model.to(torch.float16).save_pretrained(work / name)
        fast.save_pretrained(work / name)


def sh(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options).stdout


class Model:
    """A model in F16, with its importance matrix and reference logits."""

    def __init__(self, name, source, work, llama, weigh, chunks):
        self.name, self.llama, self.weigh, self.chunks = name, llama, weigh, chunks
        self.folder = work / "runs" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.f16, self.imatrix, self.base = (self.folder / file for file in ["f16.gguf", "imatrix.gguf", "base.kld"])
        self.test = work / "test.txt"
        if not self.f16.exists():
            sh(weigh, "convert", source, self.f16, "--type", "F16", "--allow-requantize", "--no-quality", "--quiet")
        if not self.imatrix.exists():
            self.run("llama-imatrix", "-m", self.f16, "-f", work / "importance.txt", "-o", self.imatrix, "-c", CONTEXT, "--no-ppl", "--chunks", 2 * chunks)
        if not self.base.exists():
            self.run("llama-perplexity", "-m", self.f16, "-f", self.test, "-c", CONTEXT, "--chunks", self.chunks, "--kl-divergence-base", self.base)

    def run(self, tool, *arguments):
        done = subprocess.run([str(part) for part in [self.llama / tool, *arguments, "-t", THREADS]], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{tool}: {done.stderr[-2000:]}")
        return done.stdout + done.stderr

    def divergence(self, file):
        """Returns the mean KL divergence of a file's predictions from those of the F16 model."""
        options = ["-m", file, "-f", self.test, "-c", CONTEXT, "--chunks", self.chunks, "--kl-divergence-base", self.base, "--kl-divergence"]
        found = None
        while found is None:  # the program may end before its log is written
            found = re.search(r"Mean\s+KLD:\s*([-\d.e]+)", self.run("llama-perplexity", *options))
        return float(found.group(1))

    def types(self, file):
        """Returns the types of the quantised tensors of a file, by name."""
        listed = json.loads(sh(self.weigh, "ls", file, "--json"))["tensors"]
        return {row["name"]: row["dtype"] for row in listed if len(row["shape"]) > 1 and row["dtype"] not in ("F32", "F16")}


CANDIDATES = ["Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]


def errors(model):
    """Returns the errors of every tensor in every candidate type, plain and weighted by importance, with the norms that they are relative to."""
    path = (model if isinstance(model, pathlib.Path) else model.folder) / "errors.json"
    if path.exists():
        return json.loads(path.read_text())
    import gguf, numpy
    entries = {tensor.name: tensor.data for tensor in gguf.GGUFReader(model.imatrix).tensors}
    # A few thousand rows of large tensors such as embeddings.
    sampled = lambda data: data[::max(1, len(data) // 4096)]
    whole = {tensor.name: (tensor.data.size, sampled(tensor.data).astype(numpy.float64))
             for tensor in gguf.GGUFReader(model.f16).tensors if tensor.data.ndim > 1}
    found = {}
    for name in CANDIDATES:
        file = model.folder / "candidate.gguf"
        sh(model.weigh, "convert", model.f16, file, "--type", name, "--pure", "--imatrix", model.imatrix, "--force", "--no-quality", "--quiet")
        for tensor in gguf.GGUFReader(file).tensors:
            if tensor.name not in whole or tensor.tensor_type.name in ("F16", "F32"):
                continue
            count, old = whole[tensor.name]
            new = gguf.quants.dequantize(sampled(tensor.data), tensor.tensor_type).reshape(old.shape)
            sums = entries.get(f"{tensor.name}.in_sum2")
            weights = numpy.ones(old.shape[-1]) if sums is None else sums.reshape(-1) / entries[f"{tensor.name}.counts"].reshape(-1)[0]
            scale = count / old.size
            squares, values = ((new - old) ** 2).sum(axis=0) * scale, (old ** 2).sum(axis=0) * scale
            row = dict(count=count, plain=squares.sum(), plain_norm=values.sum(), weighted=(squares * weights).sum(), weighted_norm=(values * weights).sum())
            found.setdefault(tensor.name, {})[tensor.tensor_type.name] = {key: float(value) for key, value in row.items()}
        file.unlink()
    path.write_text(json.dumps(found))
    return found


def exactly(name):
    return f"^{re.escape(name)}$"


def category(name):
    return re.sub(r"blk\.\d+\.", "", name).removesuffix(".weight")


def measures(model, types):
    """Returns the value of each measure for a mix."""
    table = errors(model)
    rows = {name: table[name][dtype] for name, dtype in types.items()}
    layers = {}
    for name, row in rows.items():
        layer = layers.setdefault(name.split(".")[1] if name.startswith("blk.") else name, [0.0, 0.0])
        layer[0] += row["weighted"]
        layer[1] += row["weighted_norm"]
    relative = {name: row["weighted"] / row["weighted_norm"] for name, row in rows.items()}
    return {
        "rmse": math.sqrt(sum(row["plain"] for row in rows.values()) / sum(row["count"] for row in rows.values())),
        "relative": sum(row["plain"] / row["plain_norm"] for row in rows.values()),
        "weighted relative": sum(relative.values()),
        "of each layer": sum(error / norm for error, norm in layers.values()),
        "by sensitivity": sum(SENSITIVITY.get(category(name), 1.0) * error for name, error in relative.items()),
    }


# As in src/quant/recipe/mixes.rs.
SENSITIVITY = {"token_embd": 100, "output": 100, "attn_q": 3, "attn_k": 2, "attn_v": 1.5, "attn_output": 0.5, "ffn_down": 3}


def spearman(a, b):
    def ranks(values):
        order = sorted(range(len(values)), key=values.__getitem__)
        found = [0.0] * len(values)
        for rank, index in enumerate(order):
            found[index] = rank
        return found
    a, b = ranks(a), ranks(b)
    mean = (len(a) - 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    return covariance / sum((x - mean) ** 2 for x in a)


def run(models, work, sized):
    path = work / f"results-{'-'.join(model.name for model in models)}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for model in models:
        mixes = results.setdefault(model.name, {})

        def measure(label, *options, standard=None):
            if label in mixes:
                return
            file = model.folder / "mix.gguf"
            file.unlink(missing_ok=True)
            if standard:
                sh(model.llama / "llama-quantize", "--imatrix", model.imatrix, model.f16, file, standard)
            else:
                sh(model.weigh, "convert", model.f16, file, "--imatrix", model.imatrix, "--no-quality", "--quiet", *options)
            mixes[label] = dict(bytes=file.stat().st_size, kld=model.divergence(file), types=model.types(file))
            file.unlink()
            path.write_text(json.dumps(results, indent=1))
            print(model.name, label, mixes[label]["bytes"], mixes[label]["kld"], flush=True)

        names = sorted(errors(model))
        for name in STANDARD + ["Q2_K", "Q3_K_S", "Q3_K_L", "Q4_K_S", "IQ4_XS", "Q5_K_S", "Q6_K"]:
            measure(name, standard=name)
        for name in ["Q3_K", "Q4_K", "Q5_K"]:
            measure(f"all {name}", "--type", name, "--pure")
        numbers = random.Random(3)
        for index in range(8):
            pick = [f"--tensor-type={exactly(name)}={numbers.choice(CANDIDATES[1:])}" for name in names]
            measure(f"random {index}", "--type", "Q4_K", *pick)
        # One kind of tensor at a time, which gives the sensitivities.
        for kind in sorted({category(name) for name in names}):
            measure(f"only {kind}", *[f"--tensor-type={exactly(name)}=Q3_K" for name in names if category(name) == kind], "--type", "F16")
        for name in STANDARD if sized else []:
            measure(f"size of {name}", "--target-size", str(mixes[name]["bytes"]))


def table(work):
    """Prints the rank correlations, the sensitivities, and what mixes for a size gain, as tables of Markdown."""
    results = {}
    for path in sorted(work.glob("results-*.json")):
        results |= json.loads(path.read_text())
    found = {}
    for name, mixes in results.items():
        folder = work / "runs" / name
        rows = {label: (mix["kld"], measures(folder, mix["types"])) for label, mix in mixes.items()}
        whole = [row for label, row in rows.items() if not label.startswith(("only", "size"))]
        for measure in whole[0][1]:
            found.setdefault(f"{measure} ({len(whole)} mixes)", {})[name] = spearman([row[1][measure] for row in whole], [row[0] for row in whole])
        print(f"\n{name}: divergence over weighted relative error, if only one kind of tensor is Q3_K")
        for label, (kld, row) in rows.items():
            if label.startswith("only"):
                print(f"| {label.removeprefix('only ')} | {kld / row['weighted relative']:.2g} |")
        for label in STANDARD:
            if f"size of {label}" in mixes:
                ours, theirs = mixes[f"size of {label}"], mixes[label]
                print(f"| {name} | {label} | {theirs['bytes']} | {theirs['kld']} | {ours['bytes']} | {ours['kld']} | {ours['kld'] / theirs['kld']:.2f} |")
    print()
    for measure, values in found.items():
        print(f"| {measure} | " + " | ".join(f"{name} {value:.2f}" for name, value in values.items()) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "run", "table"])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama.cpp's programs")
    parser.add_argument("--weigh", type=pathlib.Path, help="weigh itself")
    parser.add_argument("--sized", action="store_true", help="also mixes chosen by weigh for the sizes of llama-quantize's")
    parser.add_argument("--models", default="llama,qwen3", help="trained models to measure")
    parser.add_argument("--chunks", type=int, default=16, help="most pieces of text to measure on, of 256 tokens each")
    parser.add_argument("--gguf", action="append", default=[], metavar="NAME=FILE", help="a further model")
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.command == "train":
        train(work, arguments.steps)
    elif arguments.command == "run":
        sources = {name: work / name for name in arguments.models.split(",") if name} | dict(given.split("=", 1) for given in arguments.gguf)
        run([Model(name, source, work, arguments.llama, arguments.weigh, arguments.chunks) for name, source in sources.items()], work, arguments.sized)
    else:
        table(work)
