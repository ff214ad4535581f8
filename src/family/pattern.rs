//! Tensor name templates with placeholders for indices: `model.layers.{bid}.mlp.experts.{eid}.up_proj.weight`.

/// The indices in a tensor name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct Indices {
    /// The layer index, `{bid}`.
    pub layer: Option<u64>,
    /// The expert index, `{eid}`.
    pub expert: Option<u64>,
}

/// The number at a place of a name template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Layer,
    Expert,
    Fixed(u64),
}

/// A name template, for lookup of the names that fit it.
#[derive(Debug, Clone)]
pub struct Template {
    places: Vec<Place>,
}

impl Template {
    /// Parses a template with `{bid}`, `{eid}` and numbers; returns it and the key under which names that fit are found.
    pub fn parse(text: &str) -> (String, Self) {
        let mut places = Vec::new();
        let key = with_placeholders(text, |part| {
            let place = match part {
                "{bid}" => Place::Layer,
                "{eid}" => Place::Expert,
                _ => Place::Fixed(plain_number(part)?),
            };
            places.push(place);
            Some(())
        });
        (key, Self { places })
    }

    /// Returns the indices of a name with these numbers, if it fits.
    pub fn indices(&self, numbers: &[u64]) -> Option<Indices> {
        let mut indices = Indices::default();
        for (place, &number) in self.places.iter().zip(numbers) {
            match place {
                Place::Layer => indices.layer = Some(number),
                Place::Expert => indices.expert = Some(number),
                Place::Fixed(fixed) if *fixed == number => {}
                Place::Fixed(_) => return None,
            }
        }
        Some(indices)
    }
}

/// Splits a name into the key of its template and its numbers: see [`Template::parse`].
pub fn split_numbers(name: &str) -> (String, Vec<u64>) {
    let mut numbers = Vec::new();
    let key = with_placeholders(name, |part| plain_number(part).map(|number| numbers.push(number)));
    (key, numbers)
}

/// Replaces the numbers, or placeholders for numbers, that `is_number` accepts: whole parts, and what follows the last `_` of a part.
fn with_placeholders(name: &str, mut is_number: impl FnMut(&str) -> Option<()>) -> String {
    let mut key = String::with_capacity(name.len());
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            key.push('.');
        }
        let at = part.rfind('_').map_or(0, |at| at + 1);
        let (start, number) = part.split_at(at);
        key.push_str(start);
        key.push_str(if is_number(number).is_some() { "{}" } else { number });
    }
    key
}

/// Returns the number that a part of a name is, unless it has leading zeros.
fn plain_number(part: &str) -> Option<u64> {
    let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    part.parse().ok().filter(|_| plain)
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
        match plain_number(part) {
            Some(number) if places.layer.is_none() => {
                places.layer = Some(number);
                pattern.push_str("{bid}");
            }
            Some(number) if places.expert.is_none() => {
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
    fn numbers_in_a_template_are_those_of_the_names_that_fit() {
        for (template, name, expected) in [
            ("block.{bid}.layer.0.q", "block.7.layer.0.q", Some((Some(7), None))),
            ("block.{bid}.layer.0.q", "block.7.layer.1.q", None),
            ("mtp.layers.0.experts.{eid}.up", "mtp.layers.0.experts.3.up", Some((None, Some(3)))),
            ("experts.{eid}.layers.{bid}", "experts.1.layers.2", Some((Some(2), Some(1)))),
            ("a.00.b", "a.00.b", Some((None, None))),
            ("layers.{bid}.shard_{eid}.w", "layers.1.shard_12.w", Some((Some(1), Some(12)))),
            ("layers.{bid}.ln_1.w", "layers.1.ln_1.w", Some((Some(1), None))),
            ("layers.{bid}.ln_1.w", "layers.1.ln_2.w", None),
            ("a.shard_01.w", "a.shard_01.w", Some((None, None))),
        ] {
            let (key, template) = Template::parse(template);
            let (found, numbers) = split_numbers(name);
            assert_eq!(key, found, "{name}");
            assert_eq!(template.indices(&numbers).map(|indices| (indices.layer, indices.expert)), expected, "{name}");
        }
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
