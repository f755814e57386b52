use super::*;
use std::io::Write;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn input(root: &Path, env: &[(&str, &str)]) -> SettingsInput {
    SettingsInput {
        env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        home: Some(root.join("home")),
        root: root.to_owned(),
        prefix: Some(root.join("venv")),
        site_packages: vec![root.join("venv/lib/site-packages")],
        project: Some(root.join("project")),
        stdlib: Some(root.join("py")),
    }
}

fn urls(settings: &IndexSettings) -> Vec<String> {
    settings.indexes.iter().map(ToString::to_string).collect()
}

const SOURCE: &str = "class PackageIndex:\n    pass\n\n\nPyPI = PackageIndex(\n    \"https://default.example/\", file_storage_domain=\"files.example\"\n)\nTestPyPI = PackageIndex(\"https://test.example/\")\n";

#[test]
fn pip_default_from_site_packages_and_from_ensurepip() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let none = IndexSettings::discover(&input(root, &[])).unwrap();
    assert!(none.indexes.is_empty());
    assert_eq!(none.source, "no index is configured and the environment has no pip to read a default from");
    let wheel = root.join("py/ensurepip/_bundled/pip-24.0-py3-none-any.whl");
    std::fs::create_dir_all(wheel.parent().unwrap()).unwrap();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("pip/_internal/models/index.py", options).unwrap();
    zip.write_all(SOURCE.as_bytes()).unwrap();
    zip.finish().unwrap();
    let bundled = IndexSettings::discover(&input(root, &[])).unwrap();
    assert_eq!(urls(&bundled), ["https://default.example/simple/"]);
    assert_eq!(bundled.source, format!("pip's own default in {}", wheel.display()));
    let own = root.join("venv/lib/site-packages/pip/_internal/models/index.py");
    write(&own, &SOURCE.replace("default", "own"));
    let own_settings = IndexSettings::discover(&input(root, &[])).unwrap();
    assert_eq!(urls(&own_settings), ["https://own.example/simple/"]);
    let off = IndexSettings::discover(&input(root, &[("PIP_NO_INDEX", "1")])).unwrap();
    assert!(off.indexes.is_empty());
    assert_eq!(off.source, "pip's no-index");
}

#[test]
fn pip_layers() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("etc/pip.conf"), "[global]\nindex-url = https://etc.example/simple\ncert=/c\n");
    write(
        &root.join("home/.config/pip/pip.conf"),
        "[global]\nextra-index-url = https://x.example/simple file:///srv/index\n",
    );
    write(&root.join("venv/pip.conf"), "[global]\nindex-url = https://u%40v:secret@site.example/simple\n");
    let settings = IndexSettings::discover(&input(root, &[])).unwrap();
    assert_eq!(urls(&settings), ["https://site.example/simple/", "https://x.example/simple/"]);
    assert_eq!(settings.cert, Some(PathBuf::from("/c")));
    assert_eq!(settings.indexes[0].credentials(), Some(("u@v", Some("secret"))));
    let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(settings.ignored.len(), 1);
    let env = [("PIP_CONFIG_FILE", "/dev/null"), ("PIP_INDEX_URL", "https://env.example/s")];
    let settings = IndexSettings::discover(&input(root, &env)).unwrap();
    assert_eq!(urls(&settings), ["https://env.example/s/"]);
    assert_eq!(settings.source, "PIP_INDEX_URL");
}

#[test]
fn uv_layers() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(
        &root.join("home/.config/uv/uv.toml"),
        "extra-index-url = [\"https://a.example/simple\"]\n[[index]]\nname = \"my-gpu\"\nurl = \"https://gpu.example/whl\"\n[[index]]\nurl = \"https://main.example/simple\"\ndefault = true\n",
    );
    write(&root.join("etc/uv/uv.toml"), "index-url = \"https://lost.example/simple\"\n");
    let env = [("UV_INDEX_MY_GPU_USERNAME", "bob"), ("UV_INDEX_MY_GPU_PASSWORD", "pw")];
    let settings = IndexSettings::discover(&input(root, &env)).unwrap();
    assert_eq!(
        urls(&settings),
        ["https://main.example/simple/", "https://a.example/simple/", "https://gpu.example/whl/"]
    );
    assert_eq!(settings.indexes[2].credentials(), Some(("bob", Some("pw"))));
    let env = [("UV_DEFAULT_INDEX", "https://d.example/s"), ("UV_INDEX", "n=https://n.example/s")];
    let settings = IndexSettings::discover(&input(root, &env)).unwrap();
    assert_eq!(urls(&settings)[..2], ["https://d.example/s/", "https://n.example/s/"]);
}

#[test]
fn uv_project() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(
        &root.join("project/pyproject.toml"),
        "[project]\nname = \"x\"\n[[tool.uv.index]]\nurl = \"https://p.example/simple\"\ndefault = true\n",
    );
    write(&root.join("etc/uv/uv.toml"), "index-url = \"https://etc.example/simple\"\n");
    let settings = IndexSettings::discover(&input(root, &[])).unwrap();
    assert_eq!(urls(&settings), ["https://p.example/simple/"]);
    write(&root.join("project/uv.toml"), "index-url = \"https://own.example/simple\"\n");
    let settings = IndexSettings::discover(&input(root, &[])).unwrap();
    assert_eq!(urls(&settings), ["https://own.example/simple/"]);
}

#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("venv/pip.conf"), "index-url = x\n");
    let e = IndexSettings::discover(&input(root, &[])).unwrap_err();
    assert_eq!(
        e.to_string(),
        format!(
            "{} is no pip configuration: line 1: a value before the first [section]",
            root.join("venv/pip.conf").display()
        )
    );
    write(&root.join("venv/pip.conf"), "");
    write(&root.join("etc/uv/uv.toml"), "=");
    let e = IndexSettings::discover(&input(root, &[])).unwrap_err();
    let path = root.join("etc/uv/uv.toml");
    assert_eq!(e.to_string(), format!("{} is no uv configuration", path.display()));
}
