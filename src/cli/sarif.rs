//! SARIF 2.1.0, the findings of `verify` as tools for code review read them.

use std::path::Path;

use serde_json::{Value, json};

use crate::base::Error;
use crate::base::finding::{Finding, Severity};
use crate::format::codes;

/// The findings of one or more models.
#[derive(Debug, Default)]
pub(super) struct Log {
    results: Vec<Value>,
    failures: Vec<Value>,
}

impl Log {
    /// Adds a finding on the model at `path`.
    pub(super) fn add(&mut self, finding: &Finding, path: &Path) {
        let file = finding.file.as_deref().unwrap_or(path);
        let mut place = json!({ "artifactLocation": { "uri": uri(file) } });
        if let Some(offset) = finding.offset {
            place["region"] = json!({ "byteOffset": offset });
        }
        let mut location = json!({ "physicalLocation": place });
        if let Some(tensor) = &finding.tensor {
            location["logicalLocations"] = json!([{ "name": tensor, "kind": "variable" }]);
        }
        let rule = codes::CODES.iter().position(|(code, ..)| *code == finding.code);
        let mut result = json!({
            "ruleId": finding.code,
            "level": level(finding.severity),
            "message": { "text": finding.message },
            "locations": [location],
        });
        if let Some(index) = rule {
            result["ruleIndex"] = json!(index);
        }
        self.results.push(result);
    }

    /// Adds a model that could not be checked.
    pub(super) fn fail(&mut self, error: &Error, path: &Path) {
        let file = error.path().unwrap_or(path);
        self.failures.push(json!({
            "level": "error",
            "message": { "text": error.message() },
            "locations": [{ "physicalLocation": { "artifactLocation": { "uri": uri(file) } } }],
        }));
    }

    /// Returns the document.
    pub(super) fn document(self) -> Value {
        let rules = codes::CODES.iter().map(|(code, severity, rule)| {
            json!({ "id": code, "shortDescription": { "text": rule }, "defaultConfiguration": { "level": level(*severity) } })
        });
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "weigh",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules.collect::<Vec<_>>(),
                } },
                "invocations": [{
                    "executionSuccessful": self.failures.is_empty(),
                    "toolExecutionNotifications": self.failures,
                }],
                "results": self.results,
            }],
        })
    }
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// Returns a path as a URI reference: bytes other than unreserved ones and slashes are written as `%XX`.
fn uri(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains("://") {
        return text.into_owned();
    }
    let mut uri = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(byte.into()),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri(Path::new("a b/m%.gguf")), "a%20b/m%25.gguf");
        assert_eq!(uri(Path::new("s3://bucket/m.gguf")), "s3://bucket/m.gguf");
    }
}
