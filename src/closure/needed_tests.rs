use super::*;
use crate::capture::trees::tree::TreeRef;
use crate::closure::graph::Import;
use crate::closure::nodes::ScriptFile;
use crate::formats::nix::hash::Sha256;

/// A distribution, a pack, and what is built of them.
struct Small {
    graph: Graph,
    infos: BTreeMap<StorePath, PathInfo>,
}

fn path(name: &str) -> StorePath {
    let digest: String = Sha256::of(name).to_base32().chars().take(32).collect();
    StorePath::from_base_name(&format!("{digest}-{name}")).unwrap()
}

fn small() -> Small {
    let import = |name: &str, references: &[&str]| Import {
        path: path(name),
        label: name.into(),
        drv: None,
        tree: TreeRef {
            name: name.into(),
            nar_hash: Sha256::of(name),
            nar_size: 1,
            references: references.iter().map(|name| path(name).to_string()).collect(),
        },
    };
    let script =
        |name: &str| ScriptFile { path: path(name), text: name.into(), references: vec![path("runtime")] };
    let node = |kind, name: &str, references: &[&str]| Node {
        kind,
        fixed: None,
        drv: path(&format!("{name}.drv")),
        aterm: name.into(),
        out: path(name),
        references: references.iter().map(|name| path(name)).collect(),
        label: name.into(),
    };
    let graph = Graph {
        scripts: vec![script("bytecode.py"), script("environment.py"), script("snapshot.py")],
        nodes: vec![
            node(NodeKind::Wheel, "alpha.whl", &[]),
            node(NodeKind::Distribution, "alpha", &["alpha.whl.drv"]),
            node(NodeKind::Built, "alpha-bytecode", &["alpha.drv", "bytecode.py"]),
            node(NodeKind::Built, "environment", &["alpha-bytecode.drv", "alpha.drv", "environment.py"]),
            node(NodeKind::Built, "pack-bytecode", &["pack", "bytecode.py"]),
            node(
                NodeKind::Built,
                "snapshot",
                &["environment.drv", "pack-bytecode.drv", "pack", "snapshot.py"],
            ),
        ],
        imports: vec![
            import("libraries", &[]),
            import("runtime", &["libraries", "runtime"]),
            import("alpha", &[]),
            import("pack", &[]),
        ],
        environment: path("environment"),
        snapshot: path("snapshot"),
        snapshot_drv: path("snapshot.drv"),
    };
    let infos = graph.told().unwrap();
    Small { graph, infos }
}

impl Small {
    /// What would be built, and what of everything but `.drv` files that reads, where the store lacks these.
    fn without(&self, lacking: &[&str]) -> (Vec<&str>, Vec<String>) {
        let lacking: Vec<StorePath> = lacking.iter().map(|name| path(name)).collect();
        let builds = self.graph.builds(|path| !lacking.contains(path));
        let read = self.graph.read_by(&builds, &self.infos);
        assert!(self.graph.nodes.iter().all(|node| read.contains(&node.drv)));
        let mut names: Vec<String> =
            read.iter().filter(|path| !path.is_derivation()).map(|path| path.name().to_string()).collect();
        names.sort();
        let mut labels: Vec<&str> = builds.iter().map(|node| node.label.as_str()).collect();
        labels.sort();
        (labels, names)
    }
}

#[test]
fn a_build_reads_its_inputs_and_the_snapshots_own_none_of_them() {
    let small = small();
    let interpreter = ["libraries", "runtime"];
    let (builds, read) = small.without(&["snapshot", "pack-bytecode"]);
    assert_eq!(builds, ["pack-bytecode", "snapshot"]);
    assert_eq!(read, ["bytecode.py", interpreter[0], "pack", interpreter[1], "snapshot.py"]);
    let (builds, read) = small.without(&["snapshot"]);
    assert_eq!(builds, ["snapshot"]);
    assert_eq!(read, [interpreter[0], interpreter[1], "snapshot.py"]);
    let (builds, read) = small.without(&["snapshot", "environment"]);
    assert_eq!(builds, ["environment", "snapshot"]);
    let all = ["alpha", "alpha-bytecode", "environment.py", interpreter[0], interpreter[1], "snapshot.py"];
    assert_eq!(read, all);
    // Bytecode that was collected, and that nothing needs: the environment has it.
    let (builds, _) = small.without(&["snapshot", "alpha-bytecode", "alpha"]);
    assert_eq!(builds, ["snapshot"]);
    assert_eq!(small.without(&["alpha-bytecode"]).0, Vec::<&str>::new());
}

#[test]
fn everything_that_is_brought_is_known_before() {
    let Small { graph, infos } = small();
    let wanted: BTreeSet<&StorePath> = graph.wanted().filter(|path| **path != graph.snapshot).collect();
    assert_eq!(infos.keys().collect::<BTreeSet<_>>(), wanted);
    let runtime = &infos[&path("runtime")];
    assert_eq!((runtime.nar_hash, runtime.nar_size), (Sha256::of("runtime"), 1));
    assert_eq!(runtime.references, BTreeSet::from([path("libraries"), path("runtime")]));
    assert_eq!(infos[&path("bytecode.py")].references, BTreeSet::from([path("runtime")]));
}
