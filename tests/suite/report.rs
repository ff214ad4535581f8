//! The page: self-contained, whole, and safe from what files say.

use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn run(arguments: &[&str]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let _ = weigh::cli::run(["weigh"].iter().chain(arguments), &mut out, &mut err);
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// What must hold of every page.
fn check(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for outside in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for (open, close) in [("<table", "</table>"), ("<svg", "</svg>"), ("<details", "</details>"), ("<div", "</div>"), ("<tr", "</tr>")] {
        assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
    }
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("@media print"));
}

#[test]
fn the_page_of_a_model_has_every_tensor() {
    let (page, err) = run(&["report", fixture("lora/base").to_str().unwrap()]);
    assert_eq!(err, "");
    check(&page);
    let reader = weigh::format::open(&fixture("lora/base")).unwrap();
    for tensor in &reader.model().tensors {
        assert!(page.contains(&tensor.name), "{}", tensor.name);
    }
    for heading in ["Parameters", "Types", "Scale", "Outliers", "Worth a look", "Tensors"] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
}

#[test]
fn the_page_of_two_models_says_what_changed() {
    let (page, err) = run(&["report", fixture("lora/base").to_str().unwrap(), fixture("lora/merged.safetensors").to_str().unwrap()]);
    assert_eq!(err, "");
    check(&page);
    assert!(page.contains("Change by layer") && page.contains("self_attn.<wbr>q_proj"));
    assert!(page.contains("<tr class=\"differs\"><th scope=\"row\">file</th>"), "facts that differ stand out");
    assert!(page.contains("<tr><th scope=\"row\">tensors</th><td>12</td><td>12</td></tr>"), "{page}");

    // The numbers of llama.cpp's enum of file types have names on either page.
    let (folder, gguf) = (fixture("llama-tiny"), fixture("llama-tiny-q8_0.gguf"));
    let (page, _) = run(&["report", folder.to_str().unwrap(), gguf.to_str().unwrap()]);
    assert!(page.contains("32 (BF16)") && page.contains("7 (Q8_0)"), "{page}");
    assert!(run(&["report", gguf.to_str().unwrap()]).0.contains("7 (Q8_0)"));

    // A tensor that is wrong by more than its own size: no exponents.
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, value: f32| {
        let path = folder.path().join(name);
        let values: Vec<u8> = [value, 1.0, 1.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let header = r#"{"model.layers.0.mlp.up_proj.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        std::fs::write(&path, crate::build::safetensors(header, &values)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (page, _) = run(&["report", &model("a.safetensors", 1.0), &model("b.safetensors", 23.0)]);
    // 22 / 2, the norm of four ones.
    assert!(page.contains("1,100%") && page.contains(": 1,100</title>") && !page.contains("1e3"), "{page}");
}

#[test]
fn hostile_names_are_escaped() {
    let bytes = 1f32.to_le_bytes();
    let name = "</td><script>alert(1)</script>\"'\u{202e}\u{1b}[2J&";
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
    let (page, _) = run(&["report", path.to_str().unwrap()]);
    check(&page);
    assert_eq!(page.matches("<script>").count(), 1, "our own");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
}

#[test]
fn pages_and_pictures_are_written_whole_and_not_over_others() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("lora/base");
    let model = model.to_str().unwrap();
    for (name, arguments) in [
        ("m.html", vec!["report", model]),
        ("h.svg", vec!["hist", model, "lm_head.weight"]),
        ("h.png", vec!["hist", model, "lm_head.weight", "--log"]),
    ] {
        let path = folder.path().join(name);
        let with = |more: &[&str]| run(&[&arguments[..], &["-o", path.to_str().unwrap()], more].concat()).1;
        assert_eq!(with(&[]), "", "{name}");
        assert!(with(&[]).contains("already exists"), "{name}");
        assert_eq!(with(&["--force"]), "", "{name}");
        assert!(std::fs::metadata(&path).unwrap().len() > 300, "{name}");
    }
    let (table, _) = run(&["hist", model, "lm_head.weight"]);
    assert!(table.contains('█') && table.contains("Percentiles"));
    assert!(run(&["hist", model, "nothing"]).1.contains("no tensor named nothing"));
}

#[test]
fn the_page_of_file_types_has_a_point_and_a_row_for_each() {
    let (page, err) = run(&["report", fixture("llama-tiny").to_str().unwrap(), "--compare", "Q8_0,Q4_0,F16"]);
    assert_eq!(err, "");
    check(&page);
    // F16 is converted without a loss: it is in the table, and not in the chart of losses.
    assert_eq!(page.matches("<circle").count(), 2);
    assert!(page.contains(">bits per weight</text>") && page.contains(">loss (logarithmic scale)</text>"));
    assert!(!page.contains("type=\"search\""), "three rows need no filter");
    for name in ["Q8_0", "Q4_0", "F16"] {
        assert!(page.contains(&format!(">{name}</td>")), "{name}");
    }
}
