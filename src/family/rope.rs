//! Rotary position embeddings: base frequency, scaling, and the factor tables that llama.cpp stores as tensors.

use serde_json::{Value as Json, json};

use crate::base::{Error, Result};
use crate::family::config::{Config, f32_json, number_json};
use crate::model::{Metadata, Value};

/// YaRN parameters: Hugging Face and GGUF names.
const YARN: [(&[&str], &str); 4] = [
    (&["extrapolation_factor"], "yarn_ext_factor"),
    (&["attention_factor", "attn_factor"], "yarn_attn_factor"),
    (&["beta_fast"], "yarn_beta_fast"),
    (&["beta_slow"], "yarn_beta_slow"),
];

/// Adds base and scaling to GGUF metadata, like `TextModel.set_gguf_parameters` in llama.cpp's converter.
///
/// # Errors
/// A parameter of the scaling is missing.
pub fn to_gguf(architecture: &str, config: &Config, metadata: &mut Metadata) -> Result<()> {
    let full = |name: &str| config.get(&format!("rope.full_attention.{name}"));
    let nested = config.get("rope.full_attention").is_some();
    let get = |name: &str| if nested { full(name) } else { config.get(&format!("rope.{name}")) };
    let number = |name: &str| get(name).and_then(Json::as_f64);
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let kind = get("rope_type").and_then(Json::as_str).unwrap_or("default");
    match (kind, number("factor")) {
        ("linear" | "yarn", Some(factor)) => {
            metadata.set(key("scaling.type"), Value::String(kind.to_owned()));
            metadata.set(key("scaling.factor"), Value::F32(factor as f32));
            if kind == "yarn" {
                let length = number("original_max_position_embeddings")
                    .ok_or_else(|| Error::unsupported("yarn scaling needs original_max_position_embeddings"))?;
                metadata.set(key("scaling.original_context_length"), Value::U32(length as u32));
                for (names, gguf) in YARN {
                    if let Some(value) = names.iter().find_map(|name| number(name)) {
                        metadata.set(key(&format!("scaling.{gguf}")), Value::F32(value as f32));
                    }
                }
            }
        }
        ("su" | "longrope", _) => {
            metadata.set(key("scaling.type"), Value::String("longrope".to_owned()));
        }
        // llama3 and proportional become a factor tensor; dynamic scaling happens at run time; mrope has sections, which tables map.
        ("default" | "llama3" | "proportional" | "mrope" | "xdrope" | "dynamic" | "linear" | "yarn", _) => {}
        (other, _) => return Err(Error::unsupported(format!("unknown rope scaling type {other}"))),
    }
    if let Some(theta) = number("rope_theta") {
        metadata.set(key("freq_base"), Value::F32(theta as f32));
    }
    if let Some(theta) = config.get("rope.sliding_attention.rope_theta").and_then(Json::as_f64) {
        metadata.set(key("freq_base_swa"), Value::F32(theta as f32));
    }
    Ok(())
}

/// Restores `rope_theta` and `rope_scaling`, the spelling that all versions of transformers read.
pub fn to_config(architecture: &str, metadata: &Metadata, config: &mut Config) {
    let get = |name: &str| metadata.get(&format!("{architecture}.rope.{name}"));
    let number = |name: &str| match get(name)? {
        Value::F32(number) => Some(f32_json(*number)),
        other => other.as_f64().map(number_json),
    };
    if let Some(theta) = number("freq_base") {
        config.set("rope_theta", theta);
    }
    if let Some(theta) = number("freq_base_swa") {
        config.set("rope_local_base_freq", theta);
    }
    let Some(kind @ ("linear" | "yarn")) = get("scaling.type").and_then(Value::as_str) else { return };
    // Values from the family's table are kept.
    let mut scaling = config.get("rope_scaling").and_then(Json::as_object).cloned().unwrap_or_default();
    scaling.insert("rope_type".to_owned(), json!(kind));
    if let Some(factor) = number("scaling.factor") {
        scaling.insert("factor".to_owned(), factor);
    }
    if kind == "yarn" {
        if let Some(length) = number("scaling.original_context_length") {
            scaling.insert("original_max_position_embeddings".to_owned(), length);
        }
        for (names, gguf) in YARN {
            if let (Some(name), Some(value)) = (names.first(), number(&format!("scaling.{gguf}"))) {
                scaling.insert((*name).to_owned(), value);
            }
        }
    }
    config.set("rope_scaling", Json::Object(scaling));
}

/// Llama 3's scaling of low frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    length: f32,
}

impl Llama3 {
    /// Returns the factor of each frequency for head size `dim`, in single precision like the converter.
    fn factors(&self, base: f64, dim: u64) -> Vec<f32> {
        let (low_wavelength, high_wavelength) = (self.length / self.low, self.length / self.high);
        (0..dim)
            .step_by(2)
            .map(|i| {
                let exponent = i as f32 / dim as f32;
                let frequency = 1.0 / f64::from(base as f32).powf(f64::from(exponent)) as f32;
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength < high_wavelength {
                    1.0
                } else if wavelength > low_wavelength {
                    self.factor
                } else {
                    let smooth = (self.length / wavelength - self.low) / (self.high - self.low);
                    1.0 / ((1.0 - smooth) / self.factor + smooth)
                }
            })
            .collect()
    }
}

/// Returns the `rope_freqs` tensor of a model with Llama 3 scaling.
pub fn llama3_factors(config: &Config, dim: u64, rotated: u64) -> Option<Vec<f32>> {
    if config.get("rope.rope_type").and_then(Json::as_str) != Some("llama3") {
        return None;
    }
    let number = |name: &str, default: f64| config.number(&format!("rope.{name}")).unwrap_or(default);
    let scaling = Llama3 {
        factor: number("factor", 8.0) as f32,
        low: number("low_freq_factor", 1.0) as f32,
        high: number("high_freq_factor", 4.0) as f32,
        length: number("original_max_position_embeddings", 8192.0) as f32,
    };
    let base = config.get("rope.rope_theta").and_then(first_number).unwrap_or(10_000.0);
    let mut factors = scaling.factors(base, rotated.min(dim));
    factors.resize(dim.div_ceil(2) as usize, 1.0);
    Some(factors)
}

/// Recovers `rope_scaling` for config.json from the factors; `None` if no parameters produce them.
///
/// GGUF stores only the factors. The usual band (1 to 4) with a power-of-two length covers every published model; scaling band and length
/// together is equivalent, so nothing is lost.
pub fn llama3_from_factors(factors: &[f32], base: f64, rotated: u64) -> Option<Json> {
    let dim = rotated.min(2 * factors.len() as u64);
    let (factors, _) = factors.split_at_checked((dim / 2) as usize).filter(|(_, rest)| rest.iter().all(|&factor| factor == 1.0))?;
    let factor = *factors.iter().max_by(|a, b| a.total_cmp(b))?;
    let near = |a: &f32, b: &f32| (a - b).abs() <= 1e-5 * b.abs();
    // Llama 3's bound, and Step 3.5's.
    let scalings = [4.0, 32.0].into_iter().flat_map(|high| (8..=20).map(move |bits| (high, bits)));
    scalings
        .map(|(high, bits)| Llama3 { factor, low: 1.0, high, length: (1u32 << bits) as f32 })
        .find(|scaling| scaling.factors(base, dim).iter().zip(factors).all(|(a, b)| near(a, b)))
        .map(|scaling| {
            json!({
                "rope_type": "llama3",
                "factor": f32_json(scaling.factor),
                "low_freq_factor": 1.0,
                "high_freq_factor": scaling.high,
                "original_max_position_embeddings": scaling.length as u64,
            })
        })
}

/// Returns a number, or the first of several.
pub fn first_number(value: &Json) -> Option<f64> {
    value.as_f64().or_else(|| value.get(0)?.as_f64())
}

/// The factor that stops a frequency.
const STOPPED: f32 = 1e30;

/// Returns the `rope_freqs` tensor of a model in which full attention rotates a part of each head (`proportional`).
pub fn proportional_factors(config: &Config, dim: u64) -> Option<Vec<f32>> {
    let get = |name: &str| config.get(&format!("rope.full_attention.{name}"));
    if get("rope_type").and_then(Json::as_str) != Some("proportional") {
        return None;
    }
    let part = get("partial_rotary_factor").and_then(Json::as_f64).unwrap_or(1.0);
    let rotated = (dim as f64 * part / 2.0) as u64;
    Some((0..dim / 2).map(|i| if i < rotated { 1.0 } else { STOPPED }).collect())
}

/// Recovers the part of each head that rotates; `None` if the factors are others.
pub fn part_from_factors(factors: &[f32]) -> Option<f64> {
    let rotated = factors.iter().take_while(|&&factor| factor == 1.0).count();
    let rest = factors.get(rotated..)?;
    (!factors.is_empty() && rest.iter().all(|&factor| factor == STOPPED)).then(|| rotated as f64 / factors.len() as f64)
}

/// Returns the longrope factors of Phi-3: `(long, short, attention factor)`.
///
/// # Errors
/// There are not `dim / 2` of them, or they are not numbers.
#[allow(clippy::type_complexity)]
pub fn long_factors(config: &Config, dim: u64) -> Result<Option<(Vec<f32>, Vec<f32>, f32)>> {
    let list = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(Json::Array(values)) = config.get(&format!("rope.{name}")) else { return Ok(None) };
        let values: Option<Vec<f32>> = values.iter().map(|value| value.as_f64().map(|value| value as f32)).collect();
        match values {
            Some(values) if values.len() as u64 == dim / 2 => Ok(Some(values)),
            _ => Err(Error::malformed(format!("expected {} numbers in {name}, found others", dim / 2))),
        }
    };
    let (Some(long), Some(short)) = (list("long_factor")?, list("short_factor")?) else { return Ok(None) };
    let length = config.count("max_position_embeddings")? as f64;
    let original = config.count("rope.original_max_position_embeddings")? as f64;
    let scale = length / original;
    let attention = match config.get("rope.rope_type").and_then(Json::as_str) {
        _ if scale <= 1.0 => 1.0,
        Some("yarn") => 0.1 * scale.ln() + 1.0,
        _ => (1.0 + scale.ln() / original.ln()).sqrt(),
    };
    Ok(Some((long, short, attention as f32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::table::Table;

    /// Attention factors of Phi3MiniModel in llama.cpp's converter: 1 + ln(s) / 10 for yarn, sqrt(1 + ln(s) / ln(original)) for longrope.
    #[test]
    fn the_attention_factor_depends_on_scaling_type_and_ratio() {
        let attention = |kind: &str, length: u64| {
            let scaling = json!({"rope_type": kind, "long_factor": [2.0], "short_factor": [1.0]});
            let json = json!({"max_position_embeddings": length, "original_max_position_embeddings": 4096, "rope_scaling": scaling});
            long_factors(&Config::new(&Table::parse("").unwrap(), &json).unwrap(), 2).unwrap().unwrap().2
        };
        // ln 32 = 5 ln 2 = 3.4657359, and 4096 = 2^12.
        assert!((attention("yarn", 131_072) - 1.346_573_6).abs() < 1e-6);
        assert!((attention("longrope", 131_072) - 1.190_238_1).abs() < 1e-6);
        for kind in ["yarn", "longrope"] {
            assert_eq!(attention(kind, 4096), 1.0, "{kind}");
        }
    }

    #[test]
    fn the_scaling_of_published_models_is_recovered_from_its_factors() {
        for (factor, base, dim, length) in [(8.0, 500_000.0, 128, 8192), (32.0, 500_000.0, 64, 8192), (8.0, 500_000.0, 16, 1024)] {
            let scaling = Llama3 { factor, low: 1.0, high: 4.0, length: length as f32 };
            let found = llama3_from_factors(&scaling.factors(base, dim), base, dim).unwrap();
            assert_eq!(found["factor"].as_f64(), Some(f64::from(factor)));
            if dim >= 64 {
                assert_eq!(found["original_max_position_embeddings"], length);
            }
        }
        assert_eq!(llama3_from_factors(&[1.0, 3.0, 2.0, 8.0], 10_000.0, 8), None);
        assert_eq!(llama3_from_factors(&[], 10_000.0, 0), None);
    }

    #[test]
    fn a_yarn_scaling_of_gguf_has_its_names_and_numbers() {
        let mut metadata = Metadata::new();
        metadata.set("x.rope.scaling.type", Value::String("yarn".to_owned()));
        metadata.set("x.rope.scaling.factor", Value::F32(4.0));
        metadata.set("x.rope.scaling.original_context_length", Value::U32(4096));
        metadata.set("x.rope.scaling.yarn_beta_fast", Value::F32(32.0));
        let mut config = Config::new(&Table::parse("").unwrap(), &json!({})).unwrap();
        to_config("x", &metadata, &mut config);
        let expected = json!({
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0
        });
        let found = config.get("rope_scaling").unwrap();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(found[key].as_f64(), value.as_f64(), "{key}: {found}");
        }
        assert_eq!(found.as_object().unwrap().len(), 4, "{found}");
        // Linear scaling has a factor alone.
        metadata.set("x.rope.scaling.type", Value::String("linear".to_owned()));
        let mut config = Config::new(&Table::parse("").unwrap(), &json!({})).unwrap();
        to_config("x", &metadata, &mut config);
        assert_eq!(config.get("rope_scaling").unwrap().as_object().unwrap().len(), 2);
    }

    /// `Gemma4Model.generate_extra_tensors` of llama.cpp's converter: ones for the first part, 1e30 for the rest.
    #[test]
    fn the_part_that_rotates_is_recovered_from_its_factors() {
        let full = json!({"rope_type": "proportional", "partial_rotary_factor": 0.25});
        let config = |full: &Json| {
            let json = json!({"rope_parameters": {"full_attention": full, "sliding_attention": {"rope_type": "default"}}});
            Config::new(&Table::parse("").unwrap(), &json).unwrap()
        };
        let factors = proportional_factors(&config(&full), 16).unwrap();
        assert_eq!(factors, [1.0, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30]);
        assert_eq!(part_from_factors(&factors), Some(0.25));
        assert_eq!(part_from_factors(&[1.0, 1.0]), Some(1.0));
        assert_eq!(part_from_factors(&[1.0, 1e30, 1.0]), None);
        assert_eq!(part_from_factors(&[]), None);
        assert_eq!(proportional_factors(&config(&json!({"rope_type": "default"})), 16), None);
    }

    #[test]
    fn factors_that_are_too_few_are_refused() {
        let scaling = json!({"rope_type": "longrope", "long_factor": [2.0], "short_factor": [1.0]});
        let json = json!({"max_position_embeddings": 8192, "original_max_position_embeddings": 4096, "rope_scaling": scaling});
        let config = Config::new(&Table::parse("").unwrap(), &json).unwrap();
        let error = long_factors(&config, 4).unwrap_err().to_string();
        assert!(error.contains("expected 2 numbers in long_factor"), "{error}");
        // Shorter than the original: nothing is stretched.
        let scaling = json!({"rope_type": "longrope", "long_factor": [2.0], "short_factor": [1.0]});
        let json = json!({"max_position_embeddings": 2048, "original_max_position_embeddings": 4096, "rope_scaling": scaling});
        assert_eq!(long_factors(&Config::new(&Table::parse("").unwrap(), &json).unwrap(), 2).unwrap().unwrap().2, 1.0);
    }

    /// `LlamaModel.generate_extra_tensors` of llama.cpp's converter, computed by NumPy in single precision for
    /// factor 8, low 1, high 4, original length 8192, base 500000, head size 32.
    #[test]
    fn low_frequencies_are_stretched_and_high_ones_are_not() {
        let scaling = Llama3 { factor: 8.0, low: 1.0, high: 4.0, length: 8192.0 };
        let found = scaling.factors(500_000.0, 32);
        let expected = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.69453, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0];
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-5 * b, "{found:?}");
        }
        // Within a hundred-thousandth, and no further.
        for (error, is_found) in [(0.0, true), (5e-6, true), (1e-4, false)] {
            let mut off = found.clone();
            off[9] *= 1.0 + error;
            assert_eq!(llama3_from_factors(&off, 500_000.0, 2 * off.len() as u64).is_some(), is_found, "{error}");
        }
    }
}
