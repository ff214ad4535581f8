//! Parses model names: `Qwen2.5-7B-Instruct-v2` has a base name, a size, a fine-tune and a version.
//!
//! The rules follow gguf-py's `Metadata.get_model_id_components` (gguf-py/gguf/metadata.py).

/// The components of a model name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelId {
    /// The name without the organization.
    pub name: Option<String>,
    /// The organization, if the name contains it: `org/name`.
    pub organization: Option<String>,
    /// The base name of the model series.
    pub basename: Option<String>,
    /// The fine-tune.
    pub finetune: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// The size.
    pub size_label: Option<String>,
}

/// The possible roles of a name component; there may be several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    base: bool,
    size: bool,
    finetune: bool,
    version: bool,
    kind: bool,
}

impl Marks {
    fn any(self) -> bool {
        self != Self::default()
    }

    fn beside_base(self) -> bool {
        self.size || self.finetune || self.version || self.kind
    }
}

impl ModelId {
    /// Parses a name; `parameters` distinguishes a size from a context length (`128k`), 0 if unknown.
    pub fn parse(id: &str, parameters: u64) -> Self {
        if id.contains(' ') {
            return Self { name: Some(id.to_owned()), ..Self::default() };
        }
        let (organization, full) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization).filter(|name| !name.starts_with('.')), name),
            None => (None, id),
        };
        let mut parts: Vec<(String, Marks)> =
            full.split('-').filter(|part| !part.is_empty()).map(|part| (part.to_owned(), Marks::default())).collect();
        for (i, (part, marks)) in parts.iter_mut().enumerate() {
            mark(i, part, marks, parameters);
        }
        // Size words (small, mini) are redundant next to a number.
        if parts.iter().any(|(part, marks)| marks.size && part.contains(|c: char| c.is_ascii_digit())) {
            for (part, marks) in &mut parts {
                marks.size &= !part.chars().all(char::is_alphabetic);
            }
        }
        let mut at_start = true;
        for (part, marks) in &mut parts {
            if at_start && ((!marks.any() && part.starts_with(char::is_alphabetic)) || marks.version) {
                marks.base = true;
            } else {
                at_start = false;
                marks.finetune |= !marks.any();
            }
        }
        // A version at the end is not part of the base name.
        for (_, marks) in parts.iter_mut().rev() {
            if !(marks.base && marks.beside_base()) {
                break;
            }
            marks.base = false;
        }
        let joined = |is: &dyn Fn(Marks) -> bool| {
            let found: Vec<&str> = parts.iter().filter(|(_, marks)| is(*marks)).map(|(part, _)| part.as_str()).collect();
            (!found.is_empty()).then(|| found.join("-"))
        };
        let mut sizes: Vec<&str> = Vec::new();
        for (part, marks) in &parts {
            if marks.size && !sizes.contains(&part.as_str()) {
                sizes.push(part);
            }
        }
        let size_label = (!sizes.is_empty()).then(|| sizes.join("-"));
        let (finetune, version) = (joined(&|marks| marks.finetune), joined(&|marks| marks.version && !marks.base));
        let told = size_label.is_some() || finetune.is_some() || version.is_some();
        Self {
            name: Some(full.to_owned()),
            organization: organization.map(str::to_owned),
            basename: joined(&|marks| marks.base).filter(|_| told),
            finetune,
            version,
            size_label,
        }
    }
}

fn mark(i: usize, part: &mut String, marks: &mut Marks, parameters: u64) {
    let lower = part.to_ascii_lowercase();
    if is_version(&lower) {
        marks.version = true;
    } else if is_quantisation(&lower) {
        marks.kind = true;
        *part = part.to_uppercase();
    } else if i > 0 && is_size(&lower) {
        *part = size_part(part);
        let label = label_parameters(part);
        // A number far from the parameter count is most likely a context length.
        if parameters != 0 && label.is_some_and(|label| (label - parameters as f64).abs() > (7 * u128::from(parameters) / 8) as f64) {
            marks.finetune = true;
            if let Some(last) = part.pop() {
                part.push(last.to_ascii_lowercase());
            }
        }
        marks.size = !marks.any();
    } else if i > 0 && ["chat", "instruct", "vision", "lora"].contains(&lower.as_str()) {
        marks.finetune = true;
    }
}

/// Whether the component is a version: `v2`, `iter3`, `2.5`.
fn is_version(part: &str) -> bool {
    let digits = part.strip_prefix("iter").or_else(|| part.strip_prefix('v')).unwrap_or(part);
    !digits.is_empty() && digits.split('.').all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the component is a quantisation type: `q4_k_m`, `iq2_xs`, `fp16`, `bf16`.
fn is_quantisation(part: &str) -> bool {
    let float = part.strip_prefix('b').unwrap_or(part);
    let float = float.strip_prefix('f').map(|rest| rest.strip_prefix('p').unwrap_or(rest));
    if float.is_some_and(|bits| bits == "16" || bits == "32") {
        return true;
    }
    let quant = part.strip_prefix('i').unwrap_or(part);
    let Some(rest) = quant.strip_prefix('q') else { return false };
    let mut chars = rest.chars();
    chars.next().is_some_and(|c| c.is_ascii_digit())
        && chars.as_str().split('_').enumerate().all(|(i, word)| if i == 0 { word.is_empty() } else { word.chars().count() == 1 })
}

/// Whether the component is a size: `7b`, `8x7B`, `a3b`, `0.5B`, `1_5b`, `7b1`, `small`.
fn is_size(part: &str) -> bool {
    if ["small", "mini", "medium", "large"].contains(&part) || part.strip_suffix('l').is_some_and(|xs| ["x", "xx"].contains(&xs)) {
        return true;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let body = match (part.strip_prefix('a'), part.split_once('x')) {
        (Some(rest), _) => rest,
        (None, Some((experts, rest))) if digits(experts) => rest,
        _ => part,
    };
    let Some(unit) = body.find(['k', 'm', 'b', 't']) else { return false };
    let (number, after) = body.split_at(unit);
    let fits = match number.split_once(['.', '_']) {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    };
    fits && (after.len() == 1 || (after.len() == 2 && digits(&after[1..])))
}

/// Normalises a size for labels: decimal point, upper-case unit.
fn size_part(part: &str) -> String {
    let mut chars: Vec<char> = part.replace('_', ".").chars().collect();
    let len = chars.len();
    // 7b1 is 7.1B.
    if len > 2 && chars[len - 1].is_ascii_digit() {
        let (unit, fraction) = (chars[len - 2], chars[len - 1]);
        chars.truncate(len - 2);
        chars.extend(['.', fraction, unit]);
    }
    if let [.., before, last] = chars.as_mut_slice()
        && before.is_ascii_digit()
        && "kmbt".contains(*last)
    {
        *last = last.to_ascii_uppercase();
    }
    chars.into_iter().collect()
}

fn label_parameters(part: &str) -> Option<f64> {
    let unit = part.chars().last()?;
    let power = " KMBT".find(unit)?;
    let number: f64 = part.get(..part.len() - unit.len_utf8())?.parse().ok()?;
    Some(number * 1000f64.powi(i32::try_from(power).ok()?))
}

/// Formats a name as a title: capitalises lower-case words, except versions.
pub fn title(name: &str) -> String {
    let word = |word: &str| {
        let has_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let version = word.starts_with(|c: char| c.is_ascii_digit()) || (word.starts_with('v') && is_version(word));
        if !has_lower || version {
            return word.to_owned();
        }
        // As in Python's str.title: a letter after any non-letter.
        let mut after_letter = false;
        word.chars()
            .flat_map(|c| {
                let upper = c.is_alphabetic() && !after_letter;
                after_letter = c.is_alphabetic();
                if upper { c.to_uppercase().collect::<Vec<_>>() } else { vec![c] }
            })
            .collect()
    };
    name.trim().replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Returns the metadata of a source model or data set, given a Hub name or a URL.
pub fn source_metadata(id: &str, parameters: u64) -> Vec<(&'static str, String)> {
    let is_address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let mut parts = Vec::new();
    let on_hub = if is_address {
        parts.push(("repo_url", id.to_owned()));
        let path = ["https://huggingface.co/", "http://huggingface.co/"].iter().find_map(|host| id.strip_prefix(host));
        path.filter(|path| path.split('/').count() == 2 && path.split('/').all(|part| !part.is_empty()))
    } else {
        Some(id)
    };
    let Some(hub) = on_hub else { return parts };
    let found = ModelId::parse(hub, parameters);
    let address = found.organization.as_ref().zip(found.name.as_ref()).map(|(org, name)| format!("https://huggingface.co/{org}/{name}"));
    let described = [
        ("name", found.name.as_deref().map(title)),
        ("version", found.version),
        ("organization", found.organization.as_deref().map(title)),
    ];
    let mut all: Vec<(&'static str, String)> = described.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    if is_address {
        all.append(&mut parts);
    } else {
        all.extend(address.map(|address| ("repo_url", address)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected organization, base name, fine-tune, version and size, as parsed by gguf-py's `Metadata`.
    type Expected = [Option<&'static str>; 5];

    #[test]
    fn names_are_parsed_like_gguf_py() {
        let cases: &[(&str, u64, Expected)] = &[
            ("Mistral-7B-Instruct-v0.2", 7_241_732_096, [None, Some("Mistral"), Some("Instruct"), Some("v0.2"), Some("7B")]),
            ("mistralai/Mixtral-8x7B-v0.1", 0, [Some("mistralai"), Some("Mixtral"), None, Some("v0.1"), Some("8x7B")]),
            ("Qwen2.5-0.5B", 494_032_768, [None, Some("Qwen2.5"), None, None, Some("0.5B")]),
            ("Phi-3-mini-4k-instruct", 3_821_079_552, [None, Some("Phi-3"), Some("4k-instruct"), None, Some("mini")]),
            ("Qwen3-30B-A3B", 30_532_122_624, [None, Some("Qwen3"), None, None, Some("30B-A3B")]),
            ("bloom-7b1-petals", 7_069_016_064, [None, Some("bloom"), Some("petals"), None, Some("7.1B")]),
            ("all-MiniLM-L6-v2", 22_700_000, [None, Some("all-MiniLM-L6"), None, Some("v2"), None]),
            ("hf", 0, [None, None, None, None, None]),
            ("Meta-Llama-3-8B", 8_030_261_248, [None, Some("Meta-Llama-3"), None, None, Some("8B")]),
            ("gemma-3-270m-it", 268_098_176, [None, Some("gemma-3"), Some("it"), None, Some("270M")]),
            ("Instruct-7B", 0, [None, Some("Instruct"), None, None, Some("7B")]),
            ("7B-model", 0, [None, None, Some("7B-model"), None, None]),
            ("chat-model-7B", 0, [None, Some("chat-model"), None, None, Some("7B")]),
            ("model-vision-Chat", 0, [None, Some("model"), Some("vision-Chat"), None, None]),
            ("model-a3b-lora", 0, [None, Some("model"), Some("lora"), None, Some("a3B")]),
            ("model-v1-7B-v2", 0, [None, Some("model-v1"), None, Some("v2"), Some("7B")]),
            ("model-xl-v1", 0, [None, Some("model"), None, Some("v1"), Some("xl")]),
            ("model-small-7b", 0, [None, Some("model-small"), None, None, Some("7B")]),
            ("Model-7b-7B-chat", 0, [None, Some("Model"), Some("chat"), None, Some("7B")]),
            ("./model-7b", 0, [None, Some("model"), None, None, Some("7B")]),
            // Types of weights are no part of the base name.
            ("model-fp32-7b", 0, [None, Some("model"), None, None, Some("7B")]),
            ("model-F16-7b", 0, [None, Some("model"), None, None, Some("7B")]),
            ("model-fp64-7b", 0, [None, Some("model-fp64"), None, None, Some("7B")]),
            ("model-q4_k_m-7B", 0, [None, Some("model"), None, None, Some("7B")]),
            ("model-iq2_xs-7B", 0, [None, Some("model-iq2_xs"), None, None, Some("7B")]),
            ("model-q4k-7B", 0, [None, Some("model-q4k"), None, None, Some("7B")]),
            ("model-qk-7B", 0, [None, Some("model-qk"), None, None, Some("7B")]),
            ("fp16-model-7b", 0, [None, None, Some("model"), None, Some("7B")]),
            // What is a size, and what is nearly one.
            ("model-ax7b", 0, [None, None, None, None, None]),
            ("model-x7b", 0, [None, None, None, None, None]),
            ("m-bx1b", 0, [None, None, None, None, None]),
            ("model-b", 0, [None, None, None, None, None]),
            ("model-b1", 0, [None, None, None, None, None]),
            ("model-8xb", 0, [None, Some("model"), Some("8xb"), None, None]),
            ("model-.5b", 0, [None, Some("model"), Some(".5b"), None, None]),
            ("model-5.b", 0, [None, Some("model"), Some("5.b"), None, None]),
            ("model-7bc", 0, [None, Some("model"), Some("7bc"), None, None]),
            ("model-7b1c", 0, [None, Some("model"), Some("7b1c"), None, None]),
            ("model-7b-1b1", 0, [None, Some("model"), None, None, Some("7B-1.1B")]),
            ("model-1_5b", 0, [None, Some("model"), None, None, Some("1.5B")]),
            // Seven eighths of the parameters is not too far.
            ("model-15b", 8_000_000_000, [None, Some("model"), None, None, Some("15B")]),
            ("model-16b", 8_000_000_000, [None, Some("model"), Some("16b"), None, None]),
            ("model-128k-8b", 8_000_000_000, [None, Some("model"), Some("128k"), None, Some("8B")]),
        ];
        for (id, parameters, [organization, basename, finetune, version, size]) in cases {
            let found = ModelId::parse(id, *parameters);
            assert_eq!(found.organization.as_deref(), *organization, "{id}: organization");
            assert_eq!(found.basename.as_deref(), *basename, "{id}: basename");
            assert_eq!(found.finetune.as_deref(), *finetune, "{id}: finetune");
            assert_eq!(found.version.as_deref(), *version, "{id}: version");
            assert_eq!(found.size_label.as_deref(), *size, "{id}: size");
        }
    }

    #[test]
    fn titles_are_capitalised_except_for_versions() {
        assert_eq!(title("all-MiniLM-l6-v2"), "All MiniLM L6 v2");
        assert_eq!(title("hf"), "Hf");
        assert_eq!(title("qwen2.5-7b"), "Qwen2.5 7b");
        assert_eq!(title("vision-iPhone"), "Vision iPhone");
    }

    #[test]
    fn a_sentence_is_a_name_and_nothing_else() {
        let name = Some("My 7B model".to_owned());
        assert_eq!(ModelId::parse("My 7B model", 0), ModelId { name, ..ModelId::default() });
    }

    /// As `Metadata.apply_metadata_heuristic` of gguf-py fills an entry of `base_models`.
    #[test]
    fn a_source_is_a_name_of_the_hub_or_an_address() {
        let hub = [("name", "Llama 7B v2"), ("version", "v2"), ("organization", "Meta")];
        let with = |address: &str| [&hub[..], &[("repo_url", address)]].concat().into_iter().map(|(k, v)| (k, v.to_owned())).collect();
        let cases: [(&str, Vec<(&str, String)>); 6] = [
            ("meta/llama-7B-v2", with("https://huggingface.co/meta/llama-7B-v2")),
            ("https://huggingface.co/meta/llama-7B-v2", with("https://huggingface.co/meta/llama-7B-v2")),
            ("https://huggingface.co/meta/a/b", vec![("repo_url", "https://huggingface.co/meta/a/b".to_owned())]),
            ("https://huggingface.co/meta/", vec![("repo_url", "https://huggingface.co/meta/".to_owned())]),
            ("https://example.com/meta/llama", vec![("repo_url", "https://example.com/meta/llama".to_owned())]),
            ("llama", vec![("name", "Llama".to_owned())]),
        ];
        for (id, expected) in cases {
            assert_eq!(source_metadata(id, 0), expected, "{id}");
        }
    }
}
