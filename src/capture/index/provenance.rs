//! Which wheel of the index an installed distribution came from, without downloading any.
use crate::capture::index::client::{Failure, IndexClient};
use crate::capture::index::no_wheel::{Elsewhere, NoWheel};
use crate::capture::index::wheel::WheelListing;
use crate::formats::python::direct_url::{DirectKind, DirectUrl};
use crate::formats::python::name::normalize;
use crate::formats::python::simple_index::{IndexFile, percent_decoded};
use crate::formats::python::wheel_archive::same_version;
use crate::formats::python::wheel_name::WheelName;
use std::collections::BTreeSet;
use url::Url;

/// An installed distribution, as its dist-info describes it.
#[derive(Debug, Clone)]
pub struct Want {
    pub name: String,
    pub version: String,
    /// The `Tag:` lines of WHEEL, expanded.
    pub wheel_tags: Vec<String>,
    /// The WHEEL file itself.
    pub wheel_file: Vec<u8>,
    /// `cp311` and `x86_64`, of the environment's interpreter.
    pub python: String,
    pub machine: String,
    pub build: Option<String>,
    pub direct_url: Option<DirectUrl>,
}

#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)]
pub enum Candidate {
    /// The wheel it says it came from; whether the installed files are that wheel's is not known yet.
    Wheel(WheelListing),
    None(NoWheel),
}

/// Looks all of them up, a bounded number at a time, in order of `wants`. `progress` gets how many are
/// done, and of how many.
pub async fn find_wheels(
    client: &IndexClient,
    wants: &[Want],
    progress: impl Fn(usize, usize) + Send + Sync,
) -> Vec<Candidate> {
    let mut tasks = tokio::task::JoinSet::new();
    for (at, want) in wants.iter().cloned().enumerate() {
        let client = client.clone();
        tasks.spawn(async move {
            // Closing the semaphore is not something we do, so this cannot fail.
            let _permit = client.limit().acquire().await;
            (at, find_one(&client, &want).await)
        });
    }
    let mut out: Vec<Candidate> = wants.iter().map(|_| Candidate::None(NoWheel::Interrupted)).collect();
    let mut done = 0;
    progress(0, wants.len());
    while let Some(joined) = tasks.join_next().await {
        if let Ok((at, result)) = joined {
            out[at] = match result {
                Ok(listing) => Candidate::Wheel(listing),
                Err(why) => Candidate::None(why),
            };
        }
        done += 1;
        progress(done, wants.len());
    }
    out
}

async fn find_one(client: &IndexClient, want: &Want) -> Result<WheelListing, NoWheel> {
    if let Some(direct) = &want.direct_url {
        let file = direct_file(direct, want)?;
        return Ok(client.listing(&file).await?);
    }
    if want.wheel_tags.is_empty() {
        return Err(NoWheel::NoTags { name: want.name.clone(), version: want.version.clone() });
    }
    let indexes = &client.settings().indexes;
    if indexes.is_empty() {
        return Err(NoWheel::NoIndex { source_of: client.settings().source.to_string() });
    }
    let project = normalize(&want.name);
    if let Some(listing) = from_cache(client, want, &project).await {
        return Ok(listing);
    }
    let mut files: Vec<IndexFile> = Vec::new();
    let mut failure = None;
    for index in indexes {
        match client.files(index, &project).await {
            Ok(found) => files.extend(found),
            Err(e) => {
                failure.get_or_insert(e);
            }
        }
    }
    match choose(&files, want) {
        Some(choice) if choice.file.sha256.is_none() => {
            Err(NoWheel::NoHash { file: choice.file.filename.clone() })
        }
        Some(choice) if choice.named => Ok(client.listing(choice.file).await?),
        Some(choice) => {
            // The tags in its WHEEL are not those of its name; only the same WHEEL, byte for byte, vouches.
            let listing = client.listing(choice.file).await?;
            if listing.wheel_bytes == want.wheel_file { Ok(listing) } else { Err(no_wheel(want, failure)) }
        }
        None => Err(no_wheel(want, failure)),
    }
}

fn no_wheel(want: &Want, failure: Option<Failure>) -> NoWheel {
    match failure {
        Some(Failure::Unreachable(why)) => NoWheel::Unreachable { why },
        Some(Failure::Answer(why)) => NoWheel::Unusable { project: normalize(&want.name), why },
        None => {
            let (name, version) = (want.name.clone(), want.version.clone());
            NoWheel::NotThere { name, version, tags: want.wheel_tags.join(", ") }
        }
    }
}

/// Without asking any index: its earlier answer names the exact wheel, or one whose listing is known.
/// An answer that has gone stale (the file moved) falls through to asking.
async fn from_cache(client: &IndexClient, want: &Want, project: &str) -> Option<WheelListing> {
    let cache = client.cache()?;
    let cached = client.settings().indexes.iter().filter_map(|i| cache.files(i, project));
    let files: Vec<IndexFile> = cached.flat_map(|cached| cached.files).collect();
    let choice = choose(&files, want)?;
    let known = choice.exact || cache.has_listing(choice.file);
    if !known || choice.file.sha256.is_none() {
        return None;
    }
    let named = choice.named;
    client.listing(choice.file).await.ok().filter(|l| named || l.wheel_bytes == want.wheel_file)
}

/// Exact tags, the build tag, a hash, the number of shared tags, not yanked: the greatest wins.
type Rank = (bool, bool, bool, usize, bool);

struct Choice<'a> {
    file: &'a IndexFile,
    exact: bool,
    /// Its name shares a tag with WHEEL; else it only fits the interpreter.
    named: bool,
}

/// The file whose tag set is the wanted one, or else one that shares tags (a repaired wheel may be
/// renamed without its WHEEL being rewritten). The first of equals, so the order of indexes counts.
fn choose<'a>(files: &'a [IndexFile], want: &Want) -> Option<Choice<'a>> {
    let tags: BTreeSet<String> = want.wheel_tags.iter().cloned().collect();
    let project = normalize(&want.name);
    let mut best: Option<(Rank, Choice<'a>)> = None;
    for file in files {
        let Ok(wheel) = WheelName::parse(&file.filename) else {
            continue;
        };
        if normalize(&wheel.distribution) != project
            || !same_version(&wheel.version, &want.version)
            || (want.build.is_some() && wheel.build != want.build)
        {
            continue;
        }
        let have = wheel.tags();
        let shared = have.intersection(&tags).count();
        if shared == 0 && !fits(&wheel, want) {
            continue;
        }
        let exact = have == tags;
        let rank = (exact, wheel.build == want.build, file.sha256.is_some(), shared, !file.yanked);
        if best.as_ref().is_none_or(|(least, _)| rank > *least) {
            best = Some((rank, Choice { file, exact, named: shared > 0 }));
        }
    }
    best.map(|(_, choice)| choice)
}

/// Whether an installer could have chosen a wheel for this interpreter. (torchvision 0.29's WHEEL says
/// `py3-none-linux_x86_64` in a file named `py3-none-manylinux_2_28_x86_64`.)
fn fits(wheel: &WheelName, want: &Want) -> bool {
    let python = wheel.python.iter().any(|p| *p == want.python || p == "py3");
    let platform = |p: &String| p.contains("linux") && p.ends_with(&format!("_{}", want.machine));
    python && wheel.platform.iter().any(platform)
}

/// The file behind a `direct_url.json`, if it is a wheel that can be fetched again and checked.
fn direct_file(direct: &DirectUrl, want: &Want) -> Result<IndexFile, Elsewhere> {
    let url = &direct.url;
    let path = || direct.path().map_or_else(|| url.clone(), |path| path.display().to_string());
    let sha256 = match &direct.kind {
        DirectKind::Vcs { vcs, commit_id, .. } => {
            let (vcs, commit) = (vcs.clone(), commit_id.clone());
            return Err(Elsewhere::Repository { vcs, url: url.clone(), commit });
        }
        DirectKind::Directory { editable: true } => {
            return Err(Elsewhere::Editable { path: path() });
        }
        DirectKind::Directory { editable: false } => {
            return Err(Elsewhere::Directory { path: path() });
        }
        DirectKind::Archive { sha256 } => *sha256,
    };
    let parsed = Url::parse(url).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
    let Some(parsed) = parsed else {
        return Err(Elsewhere::Archive { path: path() });
    };
    let filename = parsed.path_segments().and_then(|mut segments| segments.next_back());
    let filename = percent_decoded(filename.unwrap_or_default());
    let url = url.clone();
    let Ok(wheel) = WheelName::parse(&filename) else { return Err(Elsewhere::NoWheel { url }) };
    if normalize(&wheel.distribution) != normalize(&want.name) || !same_version(&wheel.version, &want.version)
    {
        let (name, version) = (want.name.clone(), want.version.clone());
        return Err(Elsewhere::Another { url, name, version });
    }
    if sha256.is_none() {
        return Err(Elsewhere::NoHash { url });
    }
    Ok(IndexFile { filename, url, sha256, size: None, yanked: false })
}

#[cfg(test)]
#[path = "provenance_tests.rs"]
mod tests;
