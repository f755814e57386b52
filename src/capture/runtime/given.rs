//! A store path that stands in for the captured runtime. It is asked what it is by a build of the store it
//! is in (that store may be one whose paths are not at their names here), and its closure is read for the
//! libraries it brings: the audit must not count on those of a runtime that does not ship.
use super::shelf::Shelf;
use crate::capture::audit::Provided;
use crate::capture::python::interpreter::InterpreterFacts;
use crate::capture::trees::memo::Memo;
use crate::formats::nix::derivation::{Derivation, Output};
use crate::formats::nix::nar::{self, Visitor};
use crate::formats::nix::store_path::{StoreDir, StorePath, StorePathName};
use crate::store::{Store, Text};
use crate::sys::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::Path;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Given {
    /// Absolute.
    pub path: String,
    pub facts: InterpreterFacts,
    pub provided: Provided,
}

/// Runs the question with the output in the place of the standard output.
const ASK: &str = "import os, sys; sys.stdout = open(os.environ['out'], 'w'); exec(os.environ['question'])";

/// What the runtime at `text` is. A store path never changes, so an answer is kept for good.
pub fn look(
    text: &str,
    dir: &StoreDir,
    memo: &Memo,
    connect: impl FnOnce() -> Result<Store>,
) -> Result<Given> {
    let path = StorePath::from_absolute(dir, text).map_err(|e| {
        Error::new(Kind::Input, format!("the Python runtime {text:?} is not a store path: {e}"))
    })?;
    let key = path.to_absolute(dir);
    let given = match memo.get::<Given>("given", Some(&key)) {
        Some(given) => given,
        None => {
            let mut store = connect()?;
            if store.info(&path)?.is_none() {
                return Err(Error::new(Kind::Input, format!("the Python runtime {key} is not in the store"))
                    .hint(format!("bring it there: nix-store --realise {key}")));
            }
            let facts = ask(&path, &mut store)?;
            let shelf = Shelf::of(&path, &mut store)?;
            let provided = shelf.provided(&facts.executable.to_string_lossy());
            Given { path: key.clone(), facts, provided }
        }
    };
    memo.put("given", Some(&key), &given);
    Ok(given)
}

impl Given {
    /// What was installed for one interpreter is of no use to another.
    pub fn fits(&self, environment: &InterpreterFacts) -> Result<()> {
        let (given, own) = (&self.facts, environment);
        if (&given.cache_tag, &given.soabi, &given.machine) == (&own.cache_tag, &own.soabi, &own.machine) {
            return Ok(());
        }
        let shown = |facts: &InterpreterFacts| {
            format!("Python {} ({})", facts.full_version, facts.soabi.as_ref().unwrap_or(&facts.cache_tag))
        };
        Err(Error::new(
            Kind::Input,
            format!(
                "the Python runtime {} is {}, the environment has {}",
                self.path,
                shown(given),
                shown(own)
            ),
        )
        .hint("give one of the environment's own version, or none: then the environment's is captured"))
    }
}

/// A derivation whose builder is the runtime's interpreter and whose output is what it says of itself.
fn ask(path: &StorePath, store: &mut Store) -> Result<InterpreterFacts> {
    let runtime = path.to_absolute(&store.store_dir);
    let failed = |e: Error| match e.kind {
        Kind::Interrupted => e,
        _ => Error::new(Kind::Input, format!("the Python runtime {runtime} cannot be used: {}", e.full()))
            .hint("it must have bin/python3, and run on this machine"),
    };
    let (system, builder) = (format!("{}-linux", std::env::consts::ARCH), format!("{runtime}/bin/python3"));
    let mut drv = Derivation {
        system: system.clone(),
        builder: builder.clone(),
        args: ["-I", "-S", "-B", "-c", ASK].map(String::from).to_vec(),
        ..Derivation::default()
    };
    drv.outputs.insert("out".into(), Output { path: None, hash: None });
    drv.input_srcs.insert(path.clone());
    for (key, value) in [
        ("name", "python-facts"),
        ("system", &system),
        ("builder", &builder),
        // CPython finds its prefix through argv[0], which Nix sets to the builder's base name.
        ("PATH", &format!("{runtime}/bin")),
        ("question", InterpreterFacts::QUESTION),
    ] {
        drv.env.insert(key.into(), value.into());
    }
    let references: Vec<_> = drv.input_srcs.iter().cloned().collect();
    let done = drv
        .finish(&store.store_dir, &StorePathName::sanitize("python-facts"), |_| None)
        .map_err(|e| Error::new(Kind::Build, format!("cannot write a derivation for {runtime}: {e}")))?;
    let text = Text { name: done.drv_path.name(), references: &references, bytes: &done.aterm };
    store.add_texts([text], |_| Ok(()))?;
    store.build(std::slice::from_ref(&done.drv_path)).map_err(failed)?;
    let text = store.nar(&done.out, |mut input| {
        let mut whole = Whole::default();
        nar::read(&mut input, &mut whole).map_err(|e| {
            Error::new(Kind::Store, format!("cannot read {} from the store", done.out)).caused_by(e)
        })?;
        Ok(String::from_utf8_lossy(&whole.0).into_owned())
    })?;
    InterpreterFacts::parse(&text, Path::new(&builder)).map_err(failed)
}

/// An archive that is one small file.
#[derive(Default)]
struct Whole(Vec<u8>);

impl Visitor for Whole {
    type Error = io::Error;
    fn directory(&mut self, _: &[Vec<u8>]) -> io::Result<()> {
        Ok(())
    }
    fn symlink(&mut self, _: &[Vec<u8>], _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn file(&mut self, _: &[Vec<u8>], _: bool, _: u64, content: &mut dyn Read) -> io::Result<()> {
        content.take(1 << 20).read_to_end(&mut self.0).map(drop)
    }
}
