//! Ollama's store: `manifests/REGISTRY/NAMESPACE/MODEL/TAG` list layers by digest, which are stored in `blobs/`.

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, text};
use crate::source::file::entries;
use crate::source::place::read_text;

/// The media type of the weights layer.
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";

/// Returns the `manifests` folder that `path` is in or equals.
fn manifests_of(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.file_name().is_some_and(|name| name == "manifests"))
}

/// Whether `path` is a manifest in a store.
pub(crate) fn is_manifest(path: &Path) -> bool {
    manifests_of(path).and_then(Path::parent).is_some_and(|store| store.join("blobs").is_dir())
}

/// Returns the only manifest below a folder of a store (the store itself, a model, or anything between); `None` if it is not a store.
pub(crate) fn find_manifest(folder: &Path) -> Result<Option<PathBuf>> {
    let inner = folder.join("manifests");
    let start = if inner.is_dir() && folder.join("blobs").is_dir() { inner } else { folder.to_path_buf() };
    if !is_manifest(&start) {
        return Ok(None);
    }
    const DEPTH: usize = 5; // manifests, registry, namespace, model, tag
    let mut at = start;
    for _ in 0..DEPTH {
        if !at.is_dir() {
            return Ok(Some(at));
        }
        let found = entries(&at)?;
        at = match (&found[..], found.iter().find(|entry| entry.file_name().is_some_and(|name| name == "latest"))) {
            ([only], _) => only.clone(),
            (_, Some(latest)) if latest.is_file() => latest.clone(),
            _ => {
                let names: Vec<_> =
                    found.iter().take(8).map(|entry| entry.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
                let error = Error::argument(format!("expected one model in the store, found {}: {}", found.len(), names.join(", ")));
                return Err(error.in_file(&at).hint("give the path of one of them"));
            }
        };
    }
    Ok(Some(at).filter(|path| path.is_file()))
}

/// Returns the path of the blob with the weights of a manifest.
pub(crate) fn model_of(manifest: &Path) -> Result<PathBuf> {
    let fail = |message: String| Error::malformed(message).in_file(manifest);
    let parsed: serde_json::Value = serde_json::from_str(&read_text(manifest)?)
        .map_err(|error| fail(format!("expected a manifest in JSON, found: {error}")).caused_by(error))?;
    let layers = parsed.get("layers").and_then(|layers| layers.as_array());
    let digest = layers
        .and_then(|layers| layers.iter().find(|layer| layer.get("mediaType").and_then(|kind| kind.as_str()) == Some(MODEL_LAYER)))
        .and_then(|layer| layer.get("digest")?.as_str())
        .ok_or_else(|| fail(format!("expected a layer of type {MODEL_LAYER}, found none")))?;
    let plain = digest.split_once([':', '-']).filter(|(algorithm, hex)| {
        !hex.is_empty() && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let (algorithm, hex) = plain.ok_or_else(|| fail(format!("expected a digest, found {}", text::shorten(digest))))?;
    let blobs = manifests_of(manifest).and_then(Path::parent).map(|store| store.join("blobs")).unwrap_or_default();
    // Newer stores name blobs with a dash, older ones with the colon of the digest.
    let names = [format!("{algorithm}-{hex}"), format!("{algorithm}:{hex}")];
    names.iter().map(|name| blobs.join(name)).find(|path| path.exists()).ok_or_else(|| {
        let error = fail(format!("the blob {} is missing from the store", names[0]));
        error.hint("the model is incomplete: pull it again")
    })
}
