//! Making anew what is in the store and is no longer what was registered (`store/damage`): what was copied comes from the environment
//! once more, and what was built is built again, by Nix's own repair.
use crate::capture::trees::nar::write_tree;
use crate::closure::graph::{Graph, Import};
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

/// Looks at everything of a graph that the store believes to have.
pub fn mend(
    subject: &Subject,
    graph: &Graph,
    depth: Depth,
    store: &mut Store,
    observer: &dyn Observer,
) -> Result<()> {
    let known = known(graph, store)?;
    observer.progress().stage("looking at what the store has", Amount::Unknown);
    let found = damage::damaged(&subject.store, &known, depth)?;
    if found.is_empty() {
        subject.store.trust(known.keys());
        return Ok(());
    }
    // Where it cannot be made anew now, the next run knows of it.
    subject.store.doubt(found.iter().map(|damage| &damage.path));
    for damage in &found {
        let path = subject.store.absolute(&damage.path);
        observer.event(&Event::Damaged { path, how: damage.to_string() });
    }
    let wrong: BTreeSet<&StorePath> = found.iter().map(|damage| &damage.path).collect();
    copy_again(subject, graph, &wrong, store, observer)?;
    for (path, _, text) in graph.texts().filter(|(path, ..)| wrong.contains(path)) {
        same(&store.replace_text(&text)?, path)?;
    }
    build_again(subject, graph, &found, store, observer)?;
    let these = known.iter().filter(|(path, _)| wrong.contains(path));
    damage::refuse(&subject.store, these, Depth::Everything)?;
    subject.store.trust(known.keys());
    Ok(())
}

fn known(graph: &Graph, store: &mut Store) -> Result<BTreeMap<StorePath, PathInfo>> {
    let all: BTreeSet<StorePath> = graph.paths().cloned().collect();
    store.add_temp_roots(&all)?;
    let mut known = BTreeMap::new();
    for path in store.valid(&all)? {
        if let Some(info) = store.info(&path)? {
            known.insert(path, info);
        }
    }
    Ok(known)
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
        let mut references = BTreeSet::new();
        for text in &import.tree.references {
            references.insert(
                StorePath::from_base_name(text)
                    .map_err(|e| Error::new(Kind::Store, "a bad reference").caused_by(e))?,
            );
        }
        let at = store.replace_tree(&import.tree.name, &references, |out| write_tree(&tree, out));
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
