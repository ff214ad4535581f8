//! Devices by name, with their memory.

use std::collections::HashMap;

use serde::Deserialize;

use crate::base::{Error, Hint, Result, num};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sources: HashMap<String, String>,
    devices: Vec<Maker>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Maker {
    source: String,
    names: Vec<(String, u64)>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name, without the maker's.
    pub name: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Page of the maker that says so.
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
    for maker in file.devices {
        let source =
            file.sources.get(&maker.source).ok_or_else(|| Error::argument(format!("devices.toml has no source {}", maker.source)))?;
        for (name, gigabytes) in maker.names {
            let memory = num::mul(gigabytes, 1 << 30, "the memory of a device")?;
            devices.push(Device { name, memory, source: source.clone() });
        }
    }
    Ok(devices)
}

/// Returns the device of this name; case, spaces, and the names of makers do not count.
///
/// # Errors
/// There is none.
pub fn named(name: &str) -> Result<Device> {
    let wanted = key(name);
    let devices = all()?;
    let found = devices.iter().find(|device| key(&device.name) == wanted);
    found.cloned().ok_or_else(|| {
        let near = |device: &&Device| !wanted.is_empty() && (key(&device.name).contains(&wanted) || wanted.contains(&key(&device.name)));
        let error = Error::argument(format!("expected a device of the table, found {name}"));
        match devices.iter().find(near) {
            Some(device) => error.hint(Hint::DidYouMean(device.name.clone())),
            None => error.hint("give the size of its memory instead"),
        }
    })
}

fn key(name: &str) -> String {
    let mut key: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    for maker in ["nvidia", "geforce", "amd", "radeon", "intel", "instinct"] {
        key = key.replace(maker, "");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_the_names_that_people_use() {
        for (name, gigabytes) in
            [("RTX 4090", 24), ("NVIDIA GeForce RTX 4090", 24), ("rtx4060ti 16gb", 16), ("AMD Radeon RX 7900 XTX", 24), ("h100", 80)]
        {
            assert_eq!(named(name).unwrap().memory, gigabytes << 30, "{name}");
        }
        assert!(named("RTX 9999").unwrap_err().hint_text().unwrap().contains("memory"));
        assert_eq!(named("4090").unwrap_err().hints(), [Hint::DidYouMean("RTX 4090".to_owned())]);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().unwrap().iter().map(|device| key(&device.name)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
