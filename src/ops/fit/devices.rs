//! Devices by name, with their memory.

use std::collections::HashMap;

use serde::Deserialize;

use crate::base::{Error, Hint, Result, num, text};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sources: HashMap<String, String>,
    devices: Vec<Kind>,
}

/// Devices of a kind: names, each with its sizes in GB.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    source: String,
    #[serde(default)]
    shares: Vec<(u64, u64)>,
    names: Vec<(String, Vec<u64>)>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name, without the maker's; with the size, if there are several.
    pub name: String,
    /// Name with the size.
    pub full_name: String,
    /// Memory in bytes: what is for graphics, where it is shared.
    pub memory: u64,
    /// The vendor's page with the specification.
    pub source: String,
}

/// Returns all known devices.
///
/// # Errors
/// The embedded table is invalid, which tests rule out.
pub fn all() -> Result<Vec<Device>> {
    let file: File =
        toml::from_str(include_str!("devices.toml")).map_err(|error| Error::argument(format!("the embedded devices.toml: {error}")))?;
    let mut devices = Vec::new();
    for kind in &file.devices {
        let source =
            file.sources.get(&kind.source).ok_or_else(|| Error::argument(format!("devices.toml has no source {}", kind.source)))?;
        for (name, sizes) in &kind.names {
            for gigabytes in sizes {
                let full_name = format!("{name} {gigabytes}GB");
                devices.push(Device {
                    name: if sizes.len() > 1 { full_name.clone() } else { name.clone() },
                    full_name,
                    memory: kind.memory(*gigabytes)?,
                    source: source.clone(),
                });
            }
        }
    }
    Ok(devices)
}

impl Kind {
    /// Returns the bytes that are for graphics.
    fn memory(&self, gigabytes: u64) -> Result<u64> {
        let all = num::mul(gigabytes, 1 << 30, MEMORY)?;
        let share = self.shares.iter().find(|(most, _)| gigabytes <= *most).map_or(PARTS, |(_, parts)| *parts);
        Ok(num::mul(all, share, MEMORY)? / PARTS)
    }
}

/// Parts of a memory that shares count.
const PARTS: u64 = 12;

/// The overflowing quantity, for messages.
const MEMORY: &str = "the memory of a device";

/// Most devices that a hint lists.
const LISTED: usize = 8;

/// Returns the device of this name; case, spaces, and the names of makers do not count.
///
/// # Errors
/// There is no such device.
pub fn named(name: &str) -> Result<Device> {
    let wanted = key(name);
    let devices = all()?;
    if let Some(found) = devices.iter().find(|device| [&device.name, &device.full_name].into_iter().any(|name| key(name) == wanted)) {
        return Ok(found.clone());
    }
    let error = Error::argument(format!("expected a device of the table, found {name}"));
    let close = |device: &&Device| !wanted.is_empty() && (key(&device.full_name).contains(&wanted) || wanted.contains(&key(&device.name)));
    let mut near: Vec<&str> = devices.iter().filter(close).map(|device| device.name.as_str()).collect();
    if near.is_empty() {
        near.extend(text::closest(name, devices.iter().map(|device| device.name.as_str())));
    }
    // Those that begin as the given name does are nearest.
    near.sort_by_key(|name| !key(name).starts_with(&wanted));
    near.truncate(LISTED);
    Err(match near.as_slice() {
        [] => error.hint("give its memory in bytes instead"),
        near => error.hint(Hint::DidYouMean(near.join(", "))),
    })
}

/// Returns the memory of all these devices together; `None` without one.
///
/// # Errors
/// A name is not in the table.
pub fn memory<S: AsRef<str>>(names: &[S]) -> Result<Option<u64>> {
    let found = names.iter().map(|name| named(name.as_ref())).collect::<Result<Vec<_>>>()?;
    Ok((!found.is_empty()).then(|| found.iter().fold(0_u64, |sum, device| sum.saturating_add(device.memory))))
}

/// Returns what of a name counts.
fn key(name: &str) -> String {
    const LEFT_OUT: [&str; 8] = ["nvidia", "geforce", "amd", "radeon", "intel", "instinct", "apple", "gpu"];
    let mut key: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    for word in LEFT_OUT {
        key = key.replace(word, "");
    }
    key.replace("mobile", "laptop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_the_names_that_people_use() {
        for (name, gigabytes) in [
            ("RTX 4090", 24),
            ("NVIDIA GeForce RTX 4090", 24),
            ("RTX 4090 24GB", 24),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", 16),
            ("RTX 5070 Ti Mobile", 12),
            ("rtx4060ti 16gb", 16),
            ("AMD Radeon RX 7900 XTX", 24),
            ("AMD Instinct MI300X", 192),
            ("h100", 80),
            ("A100-40GB", 40),
        ] {
            assert_eq!(named(name).unwrap().memory, gigabytes << 30, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_or_leaves_the_size_open_has_near_ones() {
        let near = |name: &str| named(name).unwrap_err().hints().to_vec();
        let meant = |names: &str| [Hint::DidYouMean(names.to_owned())];
        assert_eq!(near("4060 Ti"), meant("RTX 4060 Ti 8GB, RTX 4060 Ti 16GB"));
        assert_eq!(
            near("RTX 3080"),
            meant("RTX 3080 10GB, RTX 3080 12GB, RTX 3080 Ti, RTX 3080 Laptop 8GB, RTX 3080 Laptop 16GB, RTX 3080 Ti Laptop")
        );
        assert_eq!(near("RTX 4091"), meant("RTX 4090"));
        assert!(named("Voodoo").unwrap_err().hint_text().unwrap().contains("give its memory"));
    }

    /// llama.cpp's log on Apple's chips: recommendedMaxWorkingSetSize is 21,845.34 MiB of 32 GiB, and 49,152 MiB of 64 GiB.
    #[test]
    fn a_share_of_shared_memory_is_for_graphics() {
        assert_eq!(named("Apple M2 Max 32GB").unwrap().memory >> 20, 21_845);
        assert_eq!(named("M1 Max 64GB").unwrap().memory >> 20, 49_152);
        assert_eq!(
            named("M1").unwrap_err().hints(),
            [Hint::DidYouMean(
                "M1 8GB, M1 16GB, M1 Pro 16GB, M1 Pro 32GB, M1 Max 32GB, M1 Max 64GB, M1 Ultra 64GB, M1 Ultra 128GB".to_owned()
            )]
        );
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().unwrap().iter().map(|device| key(&device.full_name)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
