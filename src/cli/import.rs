//! `stillframe import FILE`: what another tool's file says of an environment, and, with --into, that environment: ComfyUI and packs
//! from their repositories, a virtual environment with the packages named. From then on it is captured as any other.
use super::printer::{Printer, plain};
use crate::formats::comfy::description::{Dependencies, Description, DescriptionError, Source};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, check_interrupt};
use crate::sys::{files, process, signals};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A repository or a wheel may be large and the line slow; a stop is heard all the time.
const LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A ComfyUI-Manager snapshot, a .cpack.zip of comfy-pack, a comfygit pyproject.toml, or comfy-build.yaml.
    file: PathBuf,
    /// Make the environment it describes in this new folder. This clones repositories and runs pip.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The interpreter for the virtual environment (default: python3).
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,
}

fn read(file: &Path) -> Result<Description> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let wrong = |e: DescriptionError| {
        Error::new(Kind::Input, format!("{}: {e}", file.display()))
            .hint("stillframe import --help names the files it reads")
    };
    let text = || files::read_text(file).map_err(|e| e.of_kind(Kind::Input));
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

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let mut description = read(&args.file)?;
    if args.into.is_some() {
        signals::heed()?;
        description.unresolved.extend(other_python(&description, &args.python)?);
    }
    show(&description, printer);
    if let Some(folder) = &args.into {
        make(&description, folder, &args.python, printer)?;
    }
    let made = args.into.as_ref();
    printer.value(&json!({"version": 1, "description": description, "made": made}));
    let Some(folder) = made.map(|folder| folder.display()) else { return Ok(ExitCode::SUCCESS) };
    match description.unresolved.len() {
        0 => printer.line(format!("made {folder}; next: stillframe inspect {folder}")),
        1 => printer.line(format!("made {folder} without 1 item, which is named above")),
        n => printer.line(format!("made {folder} without {n} items, which are named above")),
    }
    // Who asked for all of it has not got it.
    Ok(if description.unresolved.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Wheels and packs are for one version of Python.
fn other_python(d: &Description, python: &str) -> Result<Option<String>> {
    let Some(wanted) = &d.python else { return Ok(None) };
    let code = "import sys; print('%d.%d' % sys.version_info[:2])";
    let output = process::must(&[python, "-c", code], Duration::from_secs(30))
        .map_err(|e| e.of_kind(Kind::Input).hint("name an interpreter with --python"))?;
    let version = String::from_utf8_lossy(&output).trim().to_string();
    let same = *wanted == version || wanted.starts_with(&format!("{version}."));
    Ok((!same).then(|| format!("Python {wanted}: {python} is {version}; another can be named with --python")))
}

fn show(d: &Description, printer: &Printer) {
    printer.line(printer.bold(d.format));
    if let Some(python) = &d.python {
        printer.line(format!("  Python        {}", plain(python)));
    }
    if let Some(main) = &d.comfyui {
        printer.line(format!("  ComfyUI       {} of {}", plain(&main.revision), plain(&main.repository)));
    }
    printer.line(format!("  packs         {}", d.packs.len()));
    for pack in &d.packs {
        printer.line(format!("    {:32} {}", plain(&pack.name), plain(&pack.source.revision)));
    }
    printer.line(format!("  requirements  {}", d.requirements.len()));
    printer.line(format!(
        "  models        {} (shared storage: bring them to the models folder)",
        d.models.len()
    ));
    for model in &d.models {
        printer.line(format!(
            "    {} {}",
            plain(&model.path),
            plain(model.url.as_deref().unwrap_or("(no source)"))
        ));
    }
    if !d.unresolved.is_empty() {
        printer.line(printer.bold("not resolved"));
        d.unresolved.iter().for_each(|item| printer.line(format!("  {}", plain(item))));
    }
}

fn step(words: &[&str], what: &str) -> Result<()> {
    let done = process::run_until_interrupt(words, &words.join(" "), LIMIT)?;
    if done.code == Some(0) {
        return Ok(());
    }
    let last: Vec<&str> = done.stderr.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(Error::new(Kind::Environment, format!("{what} failed: {}", last.join("; ")))
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

/// In a folder beside it, which takes its name when all of it is there.
fn make(d: &Description, folder: &Path, python: &str, printer: &Printer) -> Result<()> {
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
    let progress = printer.progress();
    progress.stage("cloning repositories", Amount::Items(d.packs.len() as u64 + 1));
    clone(main, &root)?;
    progress.advance(1);
    for pack in &d.packs {
        clone(&pack.source, &root.join("custom_nodes").join(&pack.name))?;
        progress.advance(1);
    }
    std::fs::rename(&root, folder).map_err(|e| Error::io("rename", &root, e))?;
    // Programs of a virtual environment have its place in them: it is made where it stays.
    let done = packages(d, folder, python, printer);
    if done.is_err() {
        // What was made a moment ago, and is nobody's yet.
        let _ = std::fs::remove_dir_all(folder);
    }
    done
}

fn packages(d: &Description, folder: &Path, python: &str, printer: &Printer) -> Result<()> {
    let venv = folder.join(".venv").display().to_string();
    printer.progress().stage("making the virtual environment", Amount::Unknown);
    step(&[python, "-m", "venv", &venv], "making the virtual environment")?;
    let list = folder.join(".venv/stillframe-import.txt");
    files::write_atomic(&list, (d.requirements.join("\n") + "\n").as_bytes())?;
    let mut lists = vec![list];
    if d.dependencies == Dependencies::Besides {
        let packs = d.packs.iter().map(|p| folder.join("custom_nodes").join(&p.name));
        lists.extend([folder.to_path_buf()].into_iter().chain(packs).map(|at| at.join("requirements.txt")));
    }
    let lists: Vec<String> = lists.iter().filter(|l| l.is_file()).map(|l| l.display().to_string()).collect();
    printer.progress().stage("installing packages", Amount::Unknown);
    let pip = format!("{venv}/bin/python");
    let mut words = vec![pip.as_str(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    if d.dependencies == Dependencies::Frozen {
        words.push("--no-deps");
    }
    lists.iter().for_each(|list| words.extend(["--requirement", list]));
    step(&words, "pip")
}
