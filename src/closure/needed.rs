//! What of a graph is needed: which paths are brought, which builds it takes, and what those read. Pure, as all of the graph.
use crate::closure::graph::{Graph, Node, NodeKind};
use crate::formats::nix::store_path::StorePath;
use crate::store::PathInfo;
use crate::sys::error::Result;
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl Graph {
    /// What is brought into the store, and the snapshot that is then built of it.
    pub fn wanted(&self) -> impl Iterator<Item = &StorePath> {
        let imports = self.imports.iter().map(|import| &import.path);
        imports.chain(self.texts().map(|(path, ..)| path)).chain([&self.snapshot])
    }

    /// What the graph itself says of everything that is brought: the name of such a path is made of that.
    pub fn told(&self) -> Result<BTreeMap<StorePath, PathInfo>> {
        let imports = self.imports.iter().map(|import| Ok((import.path.clone(), import.info()?)));
        imports.chain(self.texts().map(|(path, _, text)| Ok((path.clone(), text.info()?)))).collect()
    }

    /// The builds that it takes, where `has` says what is in the store or will be sent. What is there needs none of its
    /// inputs: neither the wheel of a distribution, nor bytecode that an environment links to nowhere and that was
    /// collected since.
    pub fn builds(&self, has: impl Fn(&StorePath) -> bool) -> Vec<&Node> {
        let makes: HashMap<&StorePath, &Node> = self.nodes.iter().map(|node| (&node.drv, node)).collect();
        let (mut open, mut seen, mut builds) = (vec![&self.snapshot_drv], BTreeSet::new(), Vec::new());
        while let Some(drv) = open.pop() {
            let Some(node) = makes.get(drv).filter(|node| !has(&node.out)) else { continue };
            if seen.insert(drv) {
                builds.extend(Some(*node).filter(|node| node.kind == NodeKind::Built));
                open.extend(&node.references);
            }
        }
        builds
    }

    /// Every path that one of these builds reads, and every `.drv` file, which Nix reads. `infos` knows what refers to what.
    /// The snapshot's own builder opens none of the parts that it names (`snapshot.py`).
    pub fn read_by(&self, builds: &[&Node], infos: &BTreeMap<StorePath, PathInfo>) -> BTreeSet<StorePath> {
        let outs: HashMap<&StorePath, &StorePath> = self.nodes.iter().map(|n| (&n.drv, &n.out)).collect();
        let scripts: BTreeSet<&StorePath> = self.scripts.iter().map(|script| &script.path).collect();
        let mut open: Vec<&StorePath> = Vec::new();
        for node in builds {
            let opens = |path: &&StorePath| node.out != self.snapshot || scripts.contains(path);
            let inputs = node.references.iter().map(|path| *outs.get(path).unwrap_or(&path));
            open.extend(inputs.filter(opens));
        }
        let mut read: BTreeSet<StorePath> = self.nodes.iter().map(|node| node.drv.clone()).collect();
        while let Some(path) = open.pop() {
            if read.insert(path.clone()) {
                open.extend(infos.get(path).iter().flat_map(|info| &info.references));
            }
        }
        read
    }
}

#[cfg(test)]
#[path = "needed_tests.rs"]
mod tests;
