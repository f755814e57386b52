//! What others' files say of an environment, in one form: ComfyUI-Manager's snapshot (JSON, or YAML as `comfy-lock.yaml` has
//! it), comfy-pack's `.cpack.zip`, comfygit's `pyproject.toml`, and `comfy-build.yaml` (schema comfy-build/1). Every item of a
//! file is in the result or in `unresolved`: what a file does not say well enough to be fetched again exactly is named there,
//! never guessed, and what these readers do not know is named there too.
mod comfy_build;
mod comfy_pack;
mod comfygit;
mod manager;
mod model;
mod requirement;
mod uv;

pub use comfy_build::of_comfy_build;
pub use comfy_pack::{member, of_comfy_pack};
pub use comfygit::of_comfygit;
pub use manager::of_manager_snapshot;
pub use model::*;
pub use requirement::{local_version, name_of};

/// A YAML file is one of two: `comfy-build.yaml` says its schema.
pub fn of_yaml(text: &str) -> Result<Description, DescriptionError> {
    #[derive(serde::Deserialize)]
    struct Probe {
        schema: Option<serde_json::Value>,
    }
    match serde_saphyr::from_str::<Probe>(text) {
        Ok(Probe { schema: None }) => manager::of_manager_yaml(text),
        // Its own reader says best what is wrong with it.
        _ => of_comfy_build(text),
    }
}

#[cfg(test)]
mod tests;
