//! An environment from another tool's description of one: ComfyUI and packs from their repositories, a virtual environment
//! with the packages named. From then on it is captured as any other.
use crate::capture::files::paths::read_foreign_text;
use crate::formats::comfy::description::{Dependencies, Description, DescriptionError, Source};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, Progress, check_interrupt};
use crate::sys::{files, process};
use crate::words;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// A repository or a wheel may be large and the line slow; a stop is heard all the time.
const LIMIT: Duration = Duration::from_secs(3600);

/// Which of the formats a file is in, its name tells.
pub fn read(file: &Path) -> Result<Description> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let wrong = |e: DescriptionError| {
        Error::new(Kind::Input, format!("{}: {e}", file.display()))
            .hint("stillframe import --help names the files it reads")
    };
    let text = || read_foreign_text(file).map_err(|e| e.of_kind(Kind::Input));
    if name.ends_with(".zip") {
        let opened = File::open(file).map_err(|e| Error::io("open", file, e).of_kind(Kind::Input))?;
        return Description::of_comfy_pack(opened).map_err(wrong);
    }
    if name.ends_with(".json") {
        return Description::of_manager_snapshot(text()?.as_bytes()).map_err(wrong);
    }
    if name.ends_with(".toml") {
        return Description::of_comfygit(&text()?).map_err(wrong);
    }
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        return Description::of_comfy_build(&text()?).map_err(wrong);
    }
    Err(wrong(DescriptionError::Unknown))
}

/// What the description asks for and the interpreter is not: wheels and packs are for one version of Python.
pub fn other_python(d: &Description, python: &str) -> Result<Option<String>> {
    let Some(wanted) = &d.python else { return Ok(None) };
    let code = "import sys; print('%d.%d' % sys.version_info[:2])";
    let output = process::must(&[python, "-c", code], Duration::from_secs(30))
        .map_err(|e| e.of_kind(Kind::Input).hint("name an interpreter with --python"))?;
    let version = String::from_utf8_lossy(&output).trim().to_string();
    let same = *wanted == version || wanted.starts_with(&format!("{version}."));
    Ok((!same).then(|| format!("Python {wanted}: {python} is {version}; another can be named with --python")))
}

fn step(words: &[&str], what: &str) -> Result<()> {
    let done = process::run_until_interrupt(words, &words.join(" "), LIMIT)?;
    if done.code == Some(0) {
        return Ok(());
    }
    let said = words::last_lines(&done.stderr, 3).join("; ");
    Err(Error::new(Kind::Environment, format!("{what} failed: {said}"))
        .hint("nothing was left behind; mend what it says and run the command again"))
}

/// git, which asks nobody for a name or a password: a repository that wants one is not there.
fn git(words: &[&str], what: &str) -> Result<()> {
    let alone =
        ["env", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "GIT_SSH_COMMAND=ssh -oBatchMode=yes", "git"];
    step(&[&alone, words].concat(), what)
}

fn clone(source: &Source, to: &Path) -> Result<()> {
    let text = to.display().to_string();
    let what = |did: &str| format!("{did} {}", source.repository);
    git(&["clone", "--quiet", "--no-checkout", "--", &source.repository, &text], &what("cloning"))?;
    let checkout = ["-C", &text, "checkout", "--quiet", "--detach", &source.revision];
    if git(&checkout, "").is_err() {
        check_interrupt()?;
        // A commit that no branch leads to has to be asked for by name.
        let fetch = ["-C", &text, "fetch", "--quiet", "origin", &source.revision];
        git(&fetch, &what(&format!("looking for {} in", source.revision)))?;
        git(&["-C", &text, "checkout", "--quiet", "--detach", "FETCH_HEAD"], &what("checking out"))?;
    }
    git(
        &["-C", &text, "submodule", "--quiet", "update", "--init", "--recursive"],
        &what("fetching submodules of"),
    )
}

/// Makes it in a folder beside `folder`, which takes that name when all of it is there.
pub fn make(d: &Description, folder: &Path, python: &str, progress: &dyn Progress) -> Result<()> {
    let Some(main) = &d.comfyui else {
        return Err(Error::new(
            Kind::Input,
            "no environment can be made: the file names no version of ComfyUI",
        ));
    };
    if folder.exists() {
        return Err(Error::new(Kind::Input, format!("{} is there already", folder.display()))
            .hint("name a new folder"));
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("create directory", parent, e))?;
    let scratch = tempfile::Builder::new()
        .prefix(".stillframe-import-")
        .tempdir_in(parent)
        .map_err(|e| Error::io("create a folder in", parent, e))?;
    let root = scratch.path().join("ComfyUI");
    progress.stage("cloning repositories", Amount::Items(d.packs.len() as u64 + 1));
    clone(main, &root)?;
    progress.advance(1);
    for pack in &d.packs {
        clone(&pack.source, &root.join("custom_nodes").join(&pack.name))?;
        progress.advance(1);
    }
    std::fs::rename(&root, folder).map_err(|e| Error::io("rename", &root, e))?;
    // Programs of a virtual environment have its place in them: it is made where it stays.
    let done = packages(d, folder, python, progress);
    if done.is_err() {
        // What was made a moment ago, and is nobody's yet.
        let _ = std::fs::remove_dir_all(folder);
    }
    done
}

fn packages(d: &Description, folder: &Path, python: &str, progress: &dyn Progress) -> Result<()> {
    let venv = folder.join(".venv").display().to_string();
    progress.stage("making the virtual environment", Amount::Unknown);
    step(&[python, "-m", "venv", &venv], "making the virtual environment")?;
    let list = folder.join(".venv/stillframe-import.txt");
    files::write_atomic(&list, (d.requirements.join("\n") + "\n").as_bytes())?;
    let mut lists = vec![list];
    if d.dependencies == Dependencies::Besides {
        let packs = d.packs.iter().map(|p| folder.join("custom_nodes").join(&p.name));
        lists.extend([folder.to_path_buf()].into_iter().chain(packs).map(|at| at.join("requirements.txt")));
    }
    let lists: Vec<String> = lists.iter().filter(|l| l.is_file()).map(|l| l.display().to_string()).collect();
    progress.stage("installing packages", Amount::Unknown);
    let pip = format!("{venv}/bin/python");
    let mut words = vec![pip.as_str(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    if d.dependencies == Dependencies::Frozen {
        words.push("--no-deps");
    }
    lists.iter().for_each(|list| words.extend(["--requirement", list]));
    step(&words, "pip")
}
