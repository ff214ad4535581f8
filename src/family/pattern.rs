//! Tensor name templates with placeholders for indices: `model.layers.{bid}.mlp.experts.{eid}.up_proj.weight`.

/// The indices in a tensor name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct Indices {
    /// The layer index, `{bid}`.
    pub layer: Option<u64>,
    /// The expert index, `{eid}`.
    pub expert: Option<u64>,
}

/// Splits a name into its template and indices: the first numeric component is the layer, the second the expert. Numbers with leading
/// zeros, and further ones, are kept as they are.
pub fn split_template(name: &str) -> (String, Indices) {
    let mut places = Indices::default();
    let mut pattern = String::with_capacity(name.len() + 8);
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            pattern.push('.');
        }
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        match part.parse() {
            Ok(number) if plain && places.layer.is_none() => {
                places.layer = Some(number);
                pattern.push_str("{bid}");
            }
            Ok(number) if plain && places.expert.is_none() => {
                places.expert = Some(number);
                pattern.push_str("{eid}");
            }
            _ => pattern.push_str(part),
        }
    }
    (pattern, places)
}

/// Strips leading components that only name the containing module.
pub fn strip_prefixes<'a>(name: &'a str, prefixes: &[String]) -> &'a str {
    let mut name = name;
    while let Some((first, rest)) = name.split_once('.')
        && prefixes.iter().any(|prefix| prefix == first)
    {
        name = rest;
    }
    name
}

/// Fills the indices into a template.
pub fn fill(pattern: &str, places: Indices) -> String {
    let mut name = pattern.to_owned();
    for (place, number) in [("{bid}", places.layer), ("{eid}", places.expert)] {
        if let Some(number) = number {
            name = name.replace(place, &number.to_string());
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containing_modules_are_stripped() {
        let prefixes = ["model".to_owned(), "language_model".to_owned()];
        for name in ["norm.weight", "model.norm.weight", "language_model.model.norm.weight", "model.language_model.norm.weight"] {
            assert_eq!(strip_prefixes(name, &prefixes), "norm.weight");
        }
        assert_eq!(strip_prefixes("vision_tower.model.norm.weight", &prefixes), "vision_tower.model.norm.weight");
        assert_eq!(strip_prefixes("model", &prefixes), "model", "a name is never empty");
    }

    #[test]
    fn names_split_and_fill_again() {
        for (name, pattern, layer, expert) in [
            ("model.layers.17.experts.3.w1.weight", "model.layers.{bid}.experts.{eid}.w1.weight", Some(17), Some(3)),
            ("blk.0.attn_q.weight", "blk.{bid}.attn_q.weight", Some(0), None),
            ("output.weight", "output.weight", None, None),
            ("a.01.2.3.4", "a.01.{bid}.{eid}.4", Some(2), Some(3)),
            ("a.99999999999999999999.x", "a.99999999999999999999.x", None, None),
            ("a..-1.+2", "a..-1.+2", None, None),
        ] {
            let places = Indices { layer, expert };
            assert_eq!(split_template(name), (pattern.to_owned(), places));
            assert_eq!(fill(pattern, places), name);
        }
    }
}
