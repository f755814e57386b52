//! An environment from another tool's description of one: ComfyUI and packs from their repositories, a virtual environment
//! with the packages named. From then on it is captured as any other.
use super::packages::{Wish, packages, step};
use crate::capture::files::paths::read_foreign_text;
use crate::formats::comfy::description::{self, Description, DescriptionError, Member, Source};
use crate::formats::credentials::redacted;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process;
use crate::sys::progress::{Amount, Progress, check_interrupt};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Which of the formats a file is in, its name tells; of two in YAML their content.
pub fn read(file: &Path) -> Result<Description> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let wrong = |e: DescriptionError| {
        Error::new(Kind::Input, format!("{}: {e}", file.display()))
            .hint("stillframe import --help names the files it reads")
    };
    let text = || read_foreign_text(file).map_err(|e| e.of_kind(Kind::Input));
    if name.ends_with(".zip") {
        let opened = File::open(file).map_err(|e| Error::io("open", file, e).of_kind(Kind::Input))?;
        return description::of_comfy_pack(opened).map_err(wrong);
    }
    if name.ends_with(".json") {
        return description::of_manager_snapshot(text()?.as_bytes()).map_err(wrong);
    }
    if name.ends_with(".toml") {
        return description::of_comfygit(&text()?).map_err(wrong);
    }
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        return description::of_yaml(&text()?).map_err(wrong);
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

/// git, which asks nobody for a name or a password: a repository that wants one is not there.
fn git(words: &[&str], what: &str) -> Result<()> {
    let alone =
        ["env", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "GIT_SSH_COMMAND=ssh -oBatchMode=yes", "git"];
    step(process::command(&[&alone, words].concat()), what)
}

fn clone(source: &Source, to: &Path) -> Result<()> {
    let text = to.display().to_string();
    let what = |did: &str| redacted(&format!("{did} {}", source.repository));
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

/// Writes one file of the archive below the main program, and replaces what its repository has there. A repository may hold
/// links to anywhere: nothing is written through one.
fn put(archive: &Path, member: &Member, root: &Path) -> Result<()> {
    let failed = |verb: &str, path: &Path, e| Error::io(verb, path, e);
    let mut folder = root.to_path_buf();
    let (folders, name) = member.path.rsplit_once('/').unwrap_or(("", &member.path));
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        folder.push(part);
        match folder.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let what = format!("{} has no place: {} is no folder", member.path, folder.display());
                return Err(Error::new(Kind::Environment, what));
            }
            Err(_) => std::fs::create_dir(&folder).map_err(|e| failed("create directory", &folder, e))?,
        }
    }
    let path = folder.join(name);
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(&path).map_err(|e| failed("replace", &path, e))?;
    }
    let mut to = File::create_new(&path).map_err(|e| failed("write", &path, e))?;
    let opened = File::open(archive).map_err(|e| failed("open", archive, e))?;
    description::member(opened, &member.member, |from| std::io::copy(from, &mut to))
        .map_err(|e| Error::new(Kind::Input, format!("{}: {e}", archive.display())))?
        .map_err(|e| failed("write", &path, e))?;
    Ok(())
}

/// Makes it in a folder beside its own, which takes that name when all of it is there. What turned out to be lacking is
/// the result.
pub fn make(wish: &Wish, progress: &dyn Progress) -> Result<Vec<String>> {
    let (d, folder) = (wish.description, wish.folder);
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
    // Before the packs: what is there now is of the main program's own repository.
    let lacking = d.without(|name| root.join("custom_nodes").join(name).is_file());
    for pack in &d.packs {
        clone(&pack.source, &root.join("custom_nodes").join(&pack.name))?;
        progress.advance(1);
    }
    for member in &d.members {
        check_interrupt()?;
        put(wish.file, member, &root)?;
    }
    std::fs::rename(&root, folder).map_err(|e| Error::io("rename", &root, e))?;
    // Programs of a virtual environment have its place in them: it is made where it stays.
    match packages(wish, progress) {
        Ok(more) => Ok([lacking, more].concat()),
        Err(e) => {
            // What was made a moment ago, and is nobody's yet.
            let _ = std::fs::remove_dir_all(folder);
            Err(e)
        }
    }
}
