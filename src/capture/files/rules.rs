//! What stays out of a capture and why: litter, caches, weights. Pure predicates on relative paths.
use crate::capture::files::paths::file_name;

/// Below this a weight file is no burden to the pack it is in.
const WEIGHT_MINIMUM: u64 = 1_000_000;

pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).to_ascii_lowercase()
}

pub(super) fn extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension,
        _ => "",
    }
}

/// Left by git, Python, editors and desktops; never part of what a pack is. Matches the path's last
/// component (and its parent where the name alone is innocent), so a walk can prune there.
pub fn litter(path: &[u8]) -> bool {
    let name = file_name(path);
    if name.ends_with(b"~") || name.ends_with(b".disabled") {
        return true;
    }
    // `.foo.swp`, `.foo.swo`: Vim's; a hidden name, so a module called x.swp is not meant.
    if name.starts_with(b".") && (name.ends_with(b".swp") || name.ends_with(b".swo")) {
        return true;
    }
    matches!(
        name,
        b".git"
            | b"__pycache__"
            | b".DS_Store"
            | b"Thumbs.db"
            | b"desktop.ini"
            | b".idea"
            | b".vscode"
            | b".pytest_cache"
            | b".mypy_cache"
            | b".ruff_cache"
            | b".ipynb_checkpoints"
    ) || path == b"node_modules/.cache"
        || path.ends_with(b"/node_modules/.cache")
}

/// Whether any folder of the path, or its last component, is litter.
pub fn within_litter(path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    ends.chain([path.len()]).any(|end| litter(&path[..end]))
}

/// The source that makes a `.pyc` redundant: `a/b.pyc` -> `a/b.py`. Some packs ship bytecode
/// without source, and those files are the pack.
pub fn source_of_bytecode(path: &[u8]) -> Option<Vec<u8>> {
    let stem = path.strip_suffix(b".pyc")?;
    Some([stem, b".py"].concat())
}

/// A model weight: by extension, and large enough that shipping it apart is worth it. (A `.pth` of
/// this size is torch's; Python's path files are lines of text.)
pub fn is_weight(path: &[u8], size: u64) -> bool {
    let name = text(file_name(path));
    size >= WEIGHT_MINIMUM
        && matches!(
            extension(&name),
            "safetensors"
                | "ckpt"
                | "pt"
                | "pth"
                | "bin"
                | "onnx"
                | "gguf"
                | "engine"
                | "trt"
                | "h5"
                | "tflite"
        )
}

/// Why a path of the cache (relative to `.cache`) is not what a workflow needs.
pub fn cache_excluded(path: &[u8]) -> Option<&'static str> {
    let path = text(path);
    let name = path.rsplit('/').next().unwrap_or(&path);
    if name.ends_with(".lock") || name == ".locks" || name == "cachedir.tag" {
        return Some("a lock");
    }
    if name.ends_with(".incomplete") || name.ends_with(".partial") {
        return Some("an unfinished download");
    }
    if name.starts_with("torchinductor") {
        return Some("a compiler's cache");
    }
    match path.as_str() {
        "pip" | "uv" | "pypoetry" | "pipenv" | "npm" | "node" | "yarn" | "node-gyp" | "conda" => {
            Some("a package manager's cache")
        }
        "torch_extensions" | "triton" | "nv" | "nvidia" | "ccache" | "sccache" | "go-build"
        | "torch/kernels" | "torch/inductor" | "numba" | "cupy" | "mesa_shader_cache" | "bazel" | "cargo" => {
            Some("a compiler's cache")
        }
        "matplotlib" | "fontconfig" => Some("a font cache"),
        "pre-commit" | "mypy" | "ruff" | "black" | "pylint" | "jedi" | "thumbnails" => {
            Some("a development tool's cache")
        }
        // Chunks from which finished files were assembled, and logs.
        "huggingface/xet" => Some("a download cache"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn litter_by_name() {
        for path in [
            ".git",
            "a/.git",
            "a/__pycache__",
            "x.py~",
            "a/.x.py.swp",
            "foo.disabled",
            ".idea",
            "web/node_modules/.cache",
            ".DS_Store",
        ] {
            assert!(litter(path.as_bytes()), "{path}");
        }
        for path in ["a.py", ".gitignore", ".github", "x.swp", "cache", "node_modules", "disabled"] {
            assert!(!litter(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn weights_and_caches() {
        assert!(is_weight(b"m/x.safetensors", 2_000_000));
        assert!(is_weight(b"m/X.PTH", 2_000_000));
        assert!(!is_weight(b"m/x.pth", 100));
        assert!(!is_weight(b"m/x.png", 2_000_000));
        assert!(cache_excluded(b"pip").is_some());
        assert!(cache_excluded(b"huggingface/hub/.locks").is_some());
        assert!(cache_excluded(b"huggingface/hub/version.txt").is_none());
        assert!(cache_excluded(b"rembg").is_none());
        assert_eq!(source_of_bytecode(b"a/b.pyc"), Some(b"a/b.py".to_vec()));
    }
}
