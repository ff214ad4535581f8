//! Names with places for numbers: `model.layers.{bid}.mlp.experts.{eid}.up_proj.weight`.

/// The numbers that stood in the places of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct Places {
    /// The layer, for `{bid}`.
    pub bid: Option<u64>,
    /// The expert, for `{eid}`.
    pub eid: Option<u64>,
}

/// The pattern that a name fits, and the numbers in it: the first part that is a number is the layer, the second the expert.
/// Numbers with leading zeros, and those past the second, stay as they are.
pub fn skeleton(name: &str) -> (String, Places) {
    let mut places = Places::default();
    let mut pattern = String::with_capacity(name.len() + 8);
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            pattern.push('.');
        }
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        match part.parse() {
            Ok(number) if plain && places.bid.is_none() => {
                places.bid = Some(number);
                pattern.push_str("{bid}");
            }
            Ok(number) if plain && places.eid.is_none() => {
                places.eid = Some(number);
                pattern.push_str("{eid}");
            }
            _ => pattern.push_str(part),
        }
    }
    (pattern, places)
}

/// The name without the parts at its start that only say which module holds the model.
pub fn bare<'a>(name: &'a str, prefixes: &[String]) -> &'a str {
    let mut name = name;
    while let Some((first, rest)) = name.split_once('.')
        && prefixes.iter().any(|prefix| prefix == first)
    {
        name = rest;
    }
    name
}

/// The pattern with the numbers in their places.
pub fn fill(pattern: &str, places: Places) -> String {
    let mut name = pattern.to_owned();
    for (place, number) in [("{bid}", places.bid), ("{eid}", places.eid)] {
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
    fn a_name_is_bare_without_the_modules_around_the_model() {
        let prefixes = ["model".to_owned(), "language_model".to_owned()];
        for name in ["norm.weight", "model.norm.weight", "language_model.model.norm.weight", "model.language_model.norm.weight"] {
            assert_eq!(bare(name, &prefixes), "norm.weight");
        }
        assert_eq!(bare("vision_tower.model.norm.weight", &prefixes), "vision_tower.model.norm.weight");
        assert_eq!(bare("model", &prefixes), "model", "a name is never empty");
    }

    #[test]
    fn a_name_gives_its_numbers_and_they_give_the_name() {
        for (name, pattern, bid, eid) in [
            ("model.layers.17.experts.3.w1.weight", "model.layers.{bid}.experts.{eid}.w1.weight", Some(17), Some(3)),
            ("blk.0.attn_q.weight", "blk.{bid}.attn_q.weight", Some(0), None),
            ("output.weight", "output.weight", None, None),
            ("a.01.2.3.4", "a.01.{bid}.{eid}.4", Some(2), Some(3)),
            ("a.99999999999999999999.x", "a.99999999999999999999.x", None, None),
            ("a..-1.+2", "a..-1.+2", None, None),
        ] {
            let places = Places { bid, eid };
            assert_eq!(skeleton(name), (pattern.to_owned(), places));
            assert_eq!(fill(pattern, places), name);
        }
    }
}
