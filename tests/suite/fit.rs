//! `weigh fit` on the command line. The figures of llama.cpp are compared in the unit tests of `ops::fit`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(env!("CARGO_MANIFEST_DIR")).arg("fit").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn fit(args: &[&str]) -> Value {
    let (_, out, err) = run(&[args, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}\n{out}{err}"))
}

const FOLDER: &str = "fixtures/llama-tiny";
const GGUF: &str = "fixtures/llama-tiny-q8_0.gguf";

/// 2 layers with 2 KV heads of 16: 2 x 2 x 16 x 2 elements of 2 bytes per token.
#[test]
fn a_folder_has_the_figures_of_its_gguf() {
    let (folder, gguf) = (fit(&[FOLDER, "--context", "2000"]), fit(&[GGUF, "--context", "2000"]));
    for key in ["context", "kv_bytes", "state_bytes", "compute_bytes", "per_token_bytes", "trained_context", "layers"] {
        assert_eq!(folder[key], gguf[key], "{key}");
    }
    assert_eq!(folder["per_token_bytes"], 2 * 2 * 16 * 2 * 2);
    assert_eq!((&folder["context"], &folder["kv_bytes"]), (&json!(2048), &json!(2048 * 256)));
    // The same weights in the same type have the same size.
    let as_gguf = fit(&[FOLDER, "--type", "Q8_0", "--context", "2000"]);
    let weights = &gguf["weights"];
    let total = ["embeddings", "layers", "output"].iter().map(|place| weights[place].as_u64().unwrap()).sum::<u64>();
    assert_eq!(as_gguf["options"][0]["bytes"], total);
    assert_eq!(as_gguf["options"][0]["total_bytes"], gguf["total_bytes"]);
}

/// The plan gives the sizes, so they are those of the written file.
#[test]
fn file_types_have_the_sizes_that_a_conversion_writes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    for name in ["Q4_K_M", "F16", "IQ4_NL"] {
        let model = weigh::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)).unwrap();
        model.convert(&out, &weigh::ConvertOptions::new().file_type(name).overwrite(true)).unwrap();
        let row = fit(&[FOLDER, "--type", name])["options"][0].clone();
        let written = fit(&[out.to_str().unwrap()]);
        let weights = ["embeddings", "layers", "output"].iter().map(|place| written["weights"][place].as_u64().unwrap()).sum::<u64>();
        assert_eq!((row["type"].as_str(), row["bytes"].as_u64()), (Some(name), Some(weights)), "{name}");
        assert_eq!(row["total_bytes"], written["total_bytes"], "{name}");
    }
}

#[test]
fn the_status_tells_whether_it_fits() {
    let total = fit(&[GGUF, "--context", "512"])["total_bytes"].as_u64().unwrap();
    let with = |memory: u64, more: &[&str]| run(&[&[GGUF, "--context", "512", "--memory", &memory.to_string()], more].concat()).0;
    assert_eq!(with(total, &[]), Some(0));
    assert_eq!(with(total - 1, &[]), Some(1));
    // One of the listed types fits.
    assert_eq!(with(total - 1, &["--type", "Q4_0"]), Some(0));
    assert_eq!(run(&[GGUF, "--gpu", "RTX 4090"]).0, Some(0));
    let (status, _, err) = run(&[GGUF, "--gpu", "4090"]);
    assert_eq!(status, Some(2));
    assert!(err.contains("RTX 4090"), "{err}");
}

#[test]
fn all_file_types_are_listed_with_the_largest_first() {
    let found = fit(&[FOLDER, "--all-types", "--memory", "1GB"]);
    let options = found["options"].as_array().unwrap();
    let sizes: Vec<u64> = options.iter().map(|row| row["bytes"].as_u64().unwrap()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes.len() > 30, "{sizes:?}");
    assert_eq!(options[0]["type"], "F32");
    assert!(options.iter().all(|row| row["fits"] == true));
}

#[test]
fn what_is_not_known_is_an_error() {
    for (args, part) in [
        (vec!["fixtures/quants.safetensors"], "config.json"),
        (vec![GGUF, "--context", "many"], "many"),
        (vec![GGUF, "--context", "0"], "context"),
        (vec![GGUF, "--kv-type", "Q9"], "Q9"),
        (vec![GGUF, "--kv-type", "Q8_0"], "blocks of 32"),
        (vec![GGUF, "--flash-attn", "off", "--kv-type", "F16,Q8_0"], "flash attention"),
        (vec!["fixtures/lora/for-gguf.gguf"], ""),
    ] {
        let (status, out, err) = run(&args);
        assert_eq!(status, Some(2), "{args:?}: {out}{err}");
        assert!(err.contains(part) && out.is_empty(), "{args:?}: {out}{err}");
    }
}

/// vLLM's documented sizes: 2 KV heads of 16, keys and values, 2 layers, 2 bytes; half of it on each of two devices.
#[test]
fn a_paged_cache() {
    let found = fit(&[FOLDER, "--engine", "vllm", "--memory", "1MB"]);
    assert_eq!(found["vllm"]["per_token_bytes"], 256);
    // 0.9 x 1,000,000 - 189,696 bytes of BF16 are 2,774.6 tokens: 173 blocks of 16.
    assert_eq!(found["vllm"]["weight_bytes"], 189_696);
    assert_eq!(found["vllm"]["most_tokens"], 173 * 16);
    assert_eq!(fit(&[FOLDER, "--engine", "vllm", "--devices", "2"])["vllm"]["per_token_bytes"], 128);
    assert_eq!(run(&[FOLDER, "--engine", "vllm", "--memory", "100kB"]).0, Some(1));
}

/// What is missing is not counted as nothing.
#[test]
fn a_set_that_lacks_a_file_has_no_figures() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let model = weigh::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)).unwrap();
    model.convert(&out, &weigh::ConvertOptions::new().format(weigh::FormatId::Safetensors).shard_bytes(60_000)).unwrap();
    let shards = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let shard = shards.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).max().unwrap();
    assert_eq!(run(&[out.to_str().unwrap()]).0, Some(0));
    std::fs::remove_file(shard).unwrap();
    let (status, found, err) = run(&[out.to_str().unwrap()]);
    assert_eq!((status, found.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("not known in full"), "{err}");
}

/// The same model stands for an encoder here: only the size of its weights counts.
#[test]
fn an_encoder_takes_of_the_memory() {
    let total = fit(&[GGUF, "--context", "512"])["total_bytes"].as_u64().unwrap();
    let with = fit(&[GGUF, "--context", "512", "--mmproj", GGUF, "--memory", &total.to_string()]);
    let encoder = with["mmproj_bytes"].as_u64().unwrap();
    assert_eq!((&with["total_bytes"], &with["fits"]), (&json!(total + encoder), &json!(false)));
    let more = |bytes: u64| fit(&[GGUF, "--mmproj", GGUF, "--memory", &bytes.to_string()])["max_context"].clone();
    assert_eq!(more(total + encoder), fit(&[GGUF, "--memory", &total.to_string()])["max_context"]);
    assert!(more(encoder).is_null());
}

#[test]
fn the_library_has_the_figures_of_the_program() {
    use weigh::{DType, FitOptions};
    let model = weigh::open_headers(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)).unwrap();
    let same = |options: FitOptions, args: &[&str]| {
        let mut found = fit(&[&[FOLDER], args].concat());
        found.as_object_mut().unwrap().remove("path");
        assert_eq!(serde_json::to_value(model.fit(&options).unwrap()).unwrap(), found, "{args:?}");
    };
    same(FitOptions::new(), &[]);
    same(
        FitOptions::new().context(512).parallel(2).batch(256, 128),
        &["-c", "512", "--parallel", "2", "--batch", "256", "--ubatch", "128"],
    );
    same(FitOptions::new().kv_types(DType::BF16, DType::F16).flash_attention(false), &["--kv-type", "BF16,F16", "--flash-attn", "off"]);
    same(FitOptions::new().swa_full(true).memory(1 << 20).file_type("Q8_0"), &["--swa-full", "--memory", "1MiB", "--type", "Q8_0"]);
    same(FitOptions::new().device("T4").layers_on_device(1).all_file_types(), &["--gpu", "T4", "--layers-on-gpu", "1", "--all-types"]);
    same(
        FitOptions::new().experts_on_host(1).mmproj(Path::new(env!("CARGO_MANIFEST_DIR")).join(GGUF)),
        &["--n-cpu-moe", "1", "--mmproj", GGUF],
    );
    same(FitOptions::new().vllm(0.5, 2), &["--engine", "vllm", "--gpu-memory-utilization", "0.5", "--devices", "2"]);
    assert!(model.fit(&FitOptions::new().device("T5")).is_err());
    assert!(model.fit(&FitOptions::new().file_type("Q9")).is_err());
}

#[test]
fn file_types_that_fit_are_listed_if_the_model_does_not() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama-tiny");
    let run = |more: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_weigh")).args(["fit", folder, "--context", "256", "--json"]).args(more).output().unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let (status, whole) = run(&["--all-types"]);
    assert_eq!(status, Some(0));
    let rows = whole["options"].as_array().unwrap();
    let middle = rows[rows.len() / 2]["total_bytes"].as_u64().unwrap();
    let (status, fit) = run(&["--memory", &middle.to_string()]);
    assert_eq!((status, &fit["fits"]), (Some(1), &Value::Bool(false)), "the model itself does not fit");
    let smaller: Vec<&Value> = rows.iter().filter(|row| row["total_bytes"].as_u64().unwrap() <= middle).map(|row| &row["type"]).collect();
    assert_eq!(fit["options"].as_array().unwrap().iter().map(|row| &row["type"]).collect::<Vec<_>>(), smaller);
    assert!(run(&["--memory", "1GB"]).1["options"].as_array().unwrap().is_empty(), "nothing is listed where it fits");
}
