//! Whose the files are that an observed program may use (`sys/observe`): the environment's, the snapshot's, the instance's.
use crate::capture::pipeline::Captured;
use crate::protocol::launch::{Launch, PACKS, Values};
use crate::snapshot::observed::Known;
use crate::snapshot::subject::Subject;
use crate::sys::observe::{Code, Place, Places};
use std::path::{Path, PathBuf};

/// A prefix that is not the interpreter's alone.
const SYSTEM: [&str; 3] = ["/", "/usr", "/usr/local"];

/// Nothing that is made there belongs to anybody for long.
const PASSING: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp"];

fn is_system(prefix: &Path) -> bool {
    SYSTEM.iter().any(|system| prefix == Path::new(system))
}

/// The folders of PATH, and those in which programs are on every system.
fn path() -> Vec<PathBuf> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&own).filter(|folder| folder.is_absolute()).chain(usual).collect()
}

fn known(places: Vec<Place>) -> Known {
    let passing = PASSING.map(Place::quiet);
    Known { own: Places::new(passing.into_iter().chain(places).collect()), path: path(), ..Known::default() }
}

/// With what it leads to, if it is a link or lies behind one.
fn both(path: &Path) -> impl Iterator<Item = PathBuf> {
    let real = path.canonicalize().ok().filter(|real| real != path);
    std::iter::once(path.to_path_buf()).chain(real)
}

/// The environment, and where it leads: its packs run as copies (`instance`).
fn environment(subject: &Subject, captured: &Captured) -> Vec<Place> {
    let facts = &captured.facts;
    let mut sealed = vec![subject.store.store_dir.0.clone().into(), captured.scan.root.clone()];
    sealed.extend(captured.venv.iter().chain(&captured.user_base).chain(&captured.python_path).cloned());
    sealed
        .extend([&facts.prefix, &facts.base_prefix].into_iter().filter(|prefix| !is_system(prefix)).cloned());
    sealed.extend(captured.scan.packs.iter().map(|pack| pack.location.clone()));
    sealed.extend(captured.scan.outside.iter().filter(|one| one.captured).map(|one| one.to.clone().into()));
    sealed.extend(subject.environment_cache.clone());
    let mut quiet = vec![facts.executable.clone(), captured.python.executable.clone()];
    // Shared storage.
    quiet.push(captured.scan.root.join("models"));
    quiet.extend(captured.scan.models.iter().map(|folder| PathBuf::from(&folder.path)));
    quiet.retain(|path| path.is_absolute());
    let mut places: Vec<Place> = quiet.iter().flat_map(|path| both(path)).map(Place::quiet).collect();
    places.extend(sealed.iter().flat_map(|path| both(path)).map(Place::sealed));
    // Distributions of Linux keep parts of one interpreter in folders of several names.
    let (major, minor, _) = facts.version;
    let library = |name: String| facts.stdlib.parent().map(|folder| folder.join(name));
    let parts = [library(format!("python{major}")), library(format!("python{major}.{minor}"))];
    let common = [&facts.stdlib, &facts.platstdlib].into_iter().cloned().chain(parts.into_iter().flatten());
    places.extend(common.map(|at| Place::sealed(at).with(Code::Common)));
    places.extend(
        captured.sites.iter().flat_map(|site| both(site)).map(|at| Place::sealed(at).with(Code::Of(""))),
    );
    places
}

/// What an instance has for itself.
fn instance(slot: &Path) -> [Place; 3] {
    [
        Place::quiet(slot),
        Place::quiet(slot.join("main")).with(Code::Main),
        Place::quiet(slot.join(PACKS.trim_end_matches('/'))).with(Code::Of("custom_nodes/")),
    ]
}

/// A snapshot's Python, whose interpreter this is: all of its files are links into the store.
fn python(interpreter: &Path, store: &Path) -> Vec<Place> {
    let libraries = interpreter.parent().and_then(Path::parent).map(|prefix| prefix.join("lib"));
    let entries = libraries.iter().filter_map(|libraries| libraries.read_dir().ok()).flatten().flatten();
    let sites = entries.map(|entry| entry.path().join("site-packages")).filter(|site| site.is_dir());
    let store = Place::sealed(store).with(Code::Common);
    std::iter::once(store).chain(sites.map(|at| Place::sealed(at).with(Code::Of("")))).collect()
}

/// Of the environment's own server, on copies in `slot`.
pub fn of_probe(subject: &Subject, captured: &Captured, slot: &Path) -> Known {
    let mut places = environment(subject, captured);
    places.extend(instance(slot));
    Known { ships: captured.provided.clone(), ..known(places) }
}

/// Of imports from the snapshot.
pub fn of_imports(subject: &Subject, captured: &Captured, interpreter: &Path, scratch: &Path) -> Known {
    let mut places = environment(subject, captured);
    places.retain(|place| place.code.is_none());
    places.push(Place::quiet(scratch));
    places.extend(python(interpreter, Path::new(&subject.store.store_dir.0)));
    known(places)
}

/// Of an instance of a snapshot.
pub fn of_instance(launch: &Launch, values: &Values, store: &Path) -> Known {
    let mut places = python(Path::new(&launch.program), store);
    places.extend(instance(Path::new(&values.slot)));
    let shared = [&values.base, &values.output, &values.models].map(Path::new);
    places.extend(shared.into_iter().flat_map(both).map(Place::quiet));
    known(places)
}
