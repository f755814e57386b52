//! What an instance has, beside what the environment's own server had. An instance may answer while a pack of it failed
//! to import, because ComfyUI only logs that. So its node classes are compared, its packs, the scripts of its pages, and
//! its routes.
use crate::formats::comfy::api::{classes, extensions, paths};
use crate::host::socket;
use crate::protocol::spec::{Offered, Wanted};
use crate::sys::address::Address;
use crate::sys::http::Client;
use crate::sys::say::counted;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Of each kind of thing that is missing.
const SHOWN: usize = 5;

#[derive(Debug, Clone, Default)]
pub struct Offers {
    pub classes: BTreeSet<String>,
    /// Packs that it could not import, and why.
    pub failed: BTreeMap<String, String>,
    pub extensions: BTreeSet<String>,
    /// `None`: not known, because its event loop or its server is of a kind that does not tell.
    pub routes: Option<BTreeSet<String>>,
}

/// Asks an instance for what is wanted of it; the error says what it does not tell.
pub fn ask(client: &Client, at: &Address, wanted: &Wanted) -> Result<Offers, String> {
    let mut offers = Offers::default();
    if !wanted.classes.is_empty() {
        let answer = get(client, at, paths::OBJECT_INFO).map_err(|e| format!("its node classes: {e}"))?;
        offers.classes = classes::names(&answer)
            .map_err(|e| format!("its node classes: {} is no JSON object: {e}", paths::OBJECT_INFO))?;
    }
    if !wanted.offered.extensions.is_empty() {
        let answer = get(client, at, paths::EXTENSIONS).map_err(|e| format!("its web extensions: {e}"))?;
        offers.extensions = extensions::paths(&answer)
            .map_err(|e| format!("its web extensions: {} is no JSON list: {e}", paths::EXTENSIONS))?;
    }
    if !wanted.offered.routes.is_empty()
        && let Address::Unix(socket) = at
    {
        offers.routes = socket::routes(socket);
    }
    Ok(offers)
}

fn get(client: &Client, at: &Address, path: &str) -> Result<bytes::Bytes, String> {
    let reply = client.get(at, path, LIMIT)?;
    match reply.status.is_success() {
        true => Ok(reply.body),
        false => Err(format!("{path} answered {}", reply.status.as_u16())),
    }
}

/// What an instance lacks of what is wanted, in words: the imports that failed first, because they are why the rest is
/// missing.
pub fn lacks(wanted: &BTreeMap<String, String>, offered: &Offered, has: &Offers) -> Option<String> {
    let of_the_server = " that the environment's own server has";
    let failed = has.failed.iter().filter(|(pack, _)| offered.packs.contains(*pack)).map(import).collect();
    let classes = wanted.iter().filter(|(class, _)| !has.classes.contains(*class));
    let classes = classes.map(|(class, module)| format!("{class} ({module})")).collect();
    let extensions = offered.extensions.difference(&has.extensions).cloned().collect();
    let routes = has.routes.as_ref().map(|has| offered.routes.difference(has).cloned().collect());
    let all = [
        some(
            "does not import",
            ["pack", "packs"],
            " that the environment's own server imports",
            failed,
            "; ",
        ),
        some("lacks", ["node class", "node classes"], of_the_server, classes, ", "),
        some("lacks", ["web extension", "web extensions"], of_the_server, extensions, ", "),
        some("lacks", ["route", "routes"], of_the_server, routes.unwrap_or_default(), ", "),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// A pack that could not be imported.
fn import((pack, why): (&String, &String)) -> String {
    if why.is_empty() { pack.clone() } else { format!("{pack}: {why}") }
}

/// The packs that an instance could not import, in words, for whatever else is wrong with it.
pub fn failed_in_words(offered: &Offered, failed: &BTreeMap<String, String>) -> Option<String> {
    // Without a probe nobody knows which of them the environment has, too.
    let new = |pack: &String| offered.packs.is_empty() || offered.packs.contains(pack);
    let failed: Vec<String> = failed.iter().filter(|(pack, _)| new(pack)).map(import).collect();
    some("could not import", ["pack", "packs"], "", failed, "; ")
}

fn some(verb: &str, what: [&str; 2], which: &str, all: Vec<String>, between: &str) -> Option<String> {
    if all.is_empty() {
        return None;
    }
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(between);
    let more = if all.len() > SHOWN { format!(" and {} more", all.len() - SHOWN) } else { String::new() };
    Some(format!("{verb} {}{which}: {shown}{more}", counted(all.len(), what[0], what[1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn what_is_missing_is_named_and_why() {
        let classes = [("Edge".to_string(), "custom_nodes.edge".to_string())].into();
        let offered = Offered {
            packs: set(&["edge", "painter"]),
            extensions: set(&["/extensions/edge/a.js", "/extensions/painter/b.js"]),
            routes: set(&["GET /edge/{name}", "POST /prompt"]),
        };
        let whole = Offers {
            classes: set(&["Edge", "More"]),
            // The environment's own server could not import it either.
            failed: [("elsewhere".to_string(), "it is broken".to_string())].into(),
            extensions: set(&["/extensions/edge/a.js", "/extensions/painter/b.js", "/extensions/new/c.js"]),
            routes: Some(set(&["GET /edge/{name}", "POST /prompt", "GET /more"])),
        };
        assert_eq!(lacks(&classes, &offered, &whole), None);
        assert_eq!(lacks(&classes, &offered, &Offers { routes: None, ..whole.clone() }), None);
        let failed = [("painter".to_string(), "ImportError: no oil (painter/brush.py, line 1)".to_string())];
        for (has, why) in [
            (
                Offers { failed: failed.into(), ..whole.clone() },
                "does not import 1 pack that the environment's own server imports: \
                 painter: ImportError: no oil (painter/brush.py, line 1)",
            ),
            (
                Offers { extensions: set(&["/extensions/edge/a.js"]), ..whole.clone() },
                "lacks 1 web extension that the environment's own server has: /extensions/painter/b.js",
            ),
            (
                Offers { routes: Some(set(&["POST /prompt"])), classes: set(&[]), ..whole.clone() },
                "lacks 1 node class that the environment's own server has: Edge (custom_nodes.edge); \
                 lacks 1 route that the environment's own server has: GET /edge/{name}",
            ),
        ] {
            assert_eq!(lacks(&classes, &offered, &has).as_deref(), Some(why));
        }
    }

    #[test]
    fn of_many_a_few_are_named() {
        let classes = (0..7).map(|n| (format!("Node{n}"), "nodes".to_string())).collect();
        let said = lacks(&classes, &Offered::default(), &Offers::default()).unwrap();
        assert!(
            said.starts_with("lacks 7 node classes") && said.ends_with("Node4 (nodes) and 2 more"),
            "{said}"
        );
    }
}
