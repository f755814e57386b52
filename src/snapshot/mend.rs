//! Making anew what is in the store and is no longer what was registered (`store/damage`): what was copied comes from the environment
//! once more, and what was built is built again, by Nix's own repair.
use crate::capture::trees::nar::write_tree;
use crate::closure::graph::{Graph, Import};
use crate::closure::realise::{Held, Known};
use crate::formats::nix::store_path::StorePath;
use crate::snapshot::events::{Event, Observer};
use crate::snapshot::reading::trees_of;
use crate::snapshot::subject::Subject;
use crate::store::damage::{self, Damage, Depth};
use crate::store::{PathInfo, Store};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::{Amount, check_interrupt};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

/// Looks at everything of a graph that the store believes to have.
pub fn mend(
    subject: &Subject,
    graph: &Graph,
    depth: Depth,
    store: &mut Store,
    observer: &dyn Observer,
) -> Result<()> {
    let known = Known::of(graph, &Held::of(graph, store)?, store)?;
    let all: Vec<_> = known.in_store().collect();
    observer.progress().stage("looking at what the store has", Amount::Unknown);
    let found = damage::damaged(&subject.store, all.iter().copied(), depth)?;
    anew(subject, graph, &all, &found, store, observer)
}

/// The same beside `work`, which begins once all that it reads was looked at (`Graph::read_by`): what is built from a path
/// that was written to has what was written. Says what is known of all paths, if they are as they were registered.
pub fn mend_beside<T>(
    subject: &Subject,
    graph: &Graph,
    held: &Held,
    store: &mut Store,
    observer: &dyn Observer,
    work: impl FnOnce(&mut Store) -> Result<T>,
) -> Result<(T, BTreeMap<StorePath, PathInfo>)> {
    let known = Known::of(graph, held, store)?;
    let sent: BTreeSet<&StorePath> = graph.imports.iter().map(|import| &import.path).collect();
    let builds = graph.builds(|path| known.valid.contains(path) || sent.contains(path));
    let read = graph.read_by(&builds, &known.infos);
    let (first, rest): (Vec<_>, Vec<_>) = known.in_store().partition(|(path, _)| read.contains(path));
    observer.progress().stage("looking at what the store has", Amount::Unknown);
    if !damage::damaged(&subject.store, first, Depth::Suspects)?.is_empty() {
        // What is built again reads more than that.
        mend(subject, graph, Depth::Suspects, store, observer)?;
        return Ok((work(store)?, BTreeMap::new()));
    }
    let (done, found) = thread::scope(|scope| {
        let look = damage::damaged_meanwhile(scope, &subject.store, rest);
        let done = work(store);
        (done, look.join())
    });
    let found = found.unwrap_or_else(|_| Err(Error::new(Kind::Io, "a thread ended unexpectedly")))?;
    // After work that failed nothing more is made, and the next run knows of it.
    subject.store.doubt(found.iter().map(|damage| &damage.path));
    let done = done?;
    let all: Vec<_> = known.in_store().collect();
    anew(subject, graph, &all, &found, store, observer)?;
    // What is built again may have another hash.
    Ok((done, if found.is_empty() { known.infos } else { BTreeMap::new() }))
}

/// Makes anew what was found among the paths that were looked at.
fn anew(
    subject: &Subject,
    graph: &Graph,
    looked_at: &[(&StorePath, &PathInfo)],
    found: &[Damage],
    store: &mut Store,
    observer: &dyn Observer,
) -> Result<()> {
    if !found.is_empty() {
        // Where it cannot be made anew now, the next run knows of it.
        subject.store.doubt(found.iter().map(|damage| &damage.path));
        for damage in found {
            let path = subject.store.absolute(&damage.path);
            observer.event(&Event::Damaged { path, how: damage.to_string() });
        }
        let wrong: BTreeSet<&StorePath> = found.iter().map(|damage| &damage.path).collect();
        copy_again(subject, graph, &wrong, store, observer)?;
        for (path, _, text) in graph.texts().filter(|(path, ..)| wrong.contains(path)) {
            same(&store.replace_text(&text)?, path)?;
        }
        build_again(subject, graph, found, store, observer)?;
        let these = looked_at.iter().copied().filter(|(path, _)| wrong.contains(path));
        damage::refuse(&subject.store, these, Depth::Everything)?;
    }
    subject.store.trust(looked_at.iter().map(|(path, _)| *path));
    Ok(())
}

fn same(at: &StorePath, wanted: &StorePath) -> Result<()> {
    if at == wanted {
        return Ok(());
    }
    Err(Error::new(Kind::Store, format!("{wanted} cannot be made anew: Nix put it at {at}"))
        .hint("the environment changed while it was read: run the command again"))
}

/// What was copied: the environment has it still, since the graph is of it.
fn copy_again(
    subject: &Subject,
    graph: &Graph,
    wrong: &BTreeSet<&StorePath>,
    store: &mut Store,
    observer: &dyn Observer,
) -> Result<()> {
    let imports: Vec<&Import> = graph.imports.iter().filter(|import| wrong.contains(&import.path)).collect();
    if imports.is_empty() {
        return Ok(());
    }
    let trees = trees_of(subject, &store.store_dir, observer)?;
    observer.progress().stage("sending to the store again", Amount::Items(imports.len() as u64));
    for import in imports {
        check_interrupt()?;
        let tree = trees.take(&import.path).ok_or_else(|| {
            Error::new(Kind::Store, format!("{} is not what it was when it was read", import.label))
                .hint("the environment changed while it was read: run the command again")
        })?;
        let at = store.replace_tree(&import.tree.name, &import.references()?, |out| write_tree(&tree, out));
        same(&at.map_err(|e| e.within(&import.label))?, &import.path)?;
        observer.progress().advance(1);
    }
    Ok(())
}

/// What was built, each after what it is built from.
fn build_again(
    subject: &Subject,
    graph: &Graph,
    found: &[Damage],
    store: &mut Store,
    observer: &dyn Observer,
) -> Result<()> {
    let copied: BTreeSet<&StorePath> = graph.imports.iter().map(|import| &import.path).collect();
    let is_wrong = |path: &StorePath| found.iter().any(|damage| damage.path == *path);
    let built: Vec<_> =
        graph.nodes.iter().filter(|node| is_wrong(&node.out) && !copied.contains(&node.out)).collect();
    if built.is_empty() {
        return Ok(());
    }
    let refused = || {
        let built: Vec<Damage> =
            found.iter().filter(|damage| !copied.contains(&damage.path)).cloned().collect();
        damage::told(&subject.store, &built)
    };
    // Nix's repair looks for each input at the place that its name says (`Worker::pathContentsGood`). In a store that lies
    // elsewhere it finds none, deletes the input and builds that again, and what was captured cannot be built.
    let (named, lies) = (Path::new(&subject.store.store_dir.0), subject.store.folder());
    if lies != named {
        let hint = format!(
            "mount {} at {} and run the command there without NIX_REMOTE, or delete that store and run it again",
            lies.display(),
            named.display()
        );
        return Err(refused()
            .within("Nix builds again only in a store that lies where it is named")
            .hint(hint));
    }
    if !store.trusts() {
        let paths: Vec<String> = built.iter().map(|node| subject.store.absolute(&node.out)).collect();
        return Err(refused()
            .within("only a user whom the Nix daemon trusts may have it build again what it built")
            .hint(format!("as root: nix-store --repair-path {}", paths.join(" "))));
    }
    observer.progress().stage("building again", Amount::Items(built.len() as u64));
    for node in built {
        check_interrupt()?;
        store
            .rebuild(std::slice::from_ref(&node.drv))
            .map_err(|e| e.within(format!("building {} again", node.label)))?;
        observer.progress().advance(1);
    }
    Ok(())
}
