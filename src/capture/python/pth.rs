//! The `.pth` files at the top of site directories, read as Python's `site` module reads them: a line
//! names a folder for `sys.path`, or begins with `import` and is run. What is run is not followed.
use crate::capture::files::paths::{finding, lexical, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::trees::memo::{Memo, stat_digest};
use crate::words::show;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// More than a file of lines would hold.
const MAX_TEXT: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pth {
    pub file: PathBuf,
    /// Folders outside the site directory, whether they are there or not.
    pub folders: Vec<PathBuf>,
    /// Lines of code that change `sys.path`: number, and the folder they name, if they do.
    pub code: Vec<(usize, Option<PathBuf>)>,
}

/// Every `.pth` file of the site directories, sorted. One that cannot be read names nothing; the report
/// of its own reading says why.
pub fn read_all(sites: &[PathBuf], memo: &Memo, started: SystemTime) -> Vec<Pth> {
    let mut files: Vec<(PathBuf, &Path)> = Vec::new();
    for site in sites {
        files.extend(files_of(site).map(|path| (path, site.as_path())));
    }
    files.sort();
    let digest = || stat_digest("pth", files.iter().map(|(file, _)| file.as_path()), started);
    let known = digest();
    if let Some(kept) = memo.get::<Vec<Pth>>("pth", known.as_deref()) {
        memo.put("pth", known.as_deref(), &kept);
        return kept;
    }
    let read: Vec<Pth> = files.iter().filter_map(|(file, site)| read(file, site)).collect();
    memo.put("pth", digest().as_deref(), &read);
    read
}

/// A folder that cannot be listed is reported where its files are looked for.
fn files_of(site: &Path) -> impl Iterator<Item = PathBuf> {
    let listed = std::fs::read_dir(site).into_iter().flatten().flatten();
    listed.map(|e| e.path()).filter(|path| path.as_os_str().as_bytes().ends_with(b".pth"))
}

fn text_of(file: &Path) -> Option<String> {
    let bytes = read_small(file, MAX_TEXT)?;
    Some(String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_string())
}

fn read(file: &Path, site: &Path) -> Option<Pth> {
    let text = text_of(file)?;
    let mut found = Pth { file: file.to_path_buf(), folders: Vec::new(), code: Vec::new() };
    for (at, line) in text.lines().enumerate() {
        match folder(line, site) {
            Some(folder) if !folder.starts_with(site) => found.folders.push(folder),
            None if is_code(line) && changes_path(line) => found.code.push((at + 1, literal(line, site))),
            _ => {}
        }
    }
    Some(found)
}

/// Every folder or archive that the `.pth` files of a site directory name.
pub fn named(site: &Path) -> HashSet<PathBuf> {
    let folders =
        |text: String| -> Vec<PathBuf> { text.lines().filter_map(|line| folder(line, site)).collect() };
    files_of(site).filter_map(|file| text_of(&file)).flat_map(folders).collect()
}

fn is_code(line: &str) -> bool {
    line.starts_with("import ") || line.starts_with("import\t")
}

/// What a line names; nothing if it is a comment, empty or code.
pub fn folder(line: &str, site: &Path) -> Option<PathBuf> {
    let none = line.starts_with('#') || line.trim().is_empty() || is_code(line);
    (!none).then(|| lexical(&site.join(line.trim())))
}

/// Not the two lines around an `easy-install.pth`, which only put its folders in front.
fn changes_path(line: &str) -> bool {
    (line.contains("sys.path") || line.contains("addsitedir")) && !line.contains("__plen")
}

/// The first absolute path among the quoted texts of a line.
fn literal(line: &str, site: &Path) -> Option<PathBuf> {
    let quoted = ['"', '\''].into_iter().flat_map(|quote| line.split(quote).skip(1).step_by(2));
    let mut paths = quoted.filter(|text| text.starts_with('/')).map(|text| lexical(Path::new(text)));
    paths.find(|path| !path.starts_with(site))
}

/// What the report says of code that changes the path.
pub fn findings(all: &[Pth]) -> Vec<Finding> {
    let line = |pth: &Pth, at: &usize, folder: &Option<PathBuf>| {
        let what = match folder {
            Some(folder) => format!("adds {} to sys.path", show(folder.as_os_str().as_bytes())),
            None => "changes sys.path".to_string(),
        };
        let message = format!(
            "line {at} {what} by code, which is not followed: nothing of it is captured; name the folder on \
             a line of its own instead"
        );
        finding(Severity::Warning, Topic::Outside, show(pth.file.as_os_str().as_bytes()), message)
    };
    all.iter().flat_map(|pth| pth.code.iter().map(move |(at, folder)| line(pth, at, folder))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folders_or_code() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path();
        let text = "# /comment\n\n/far/lib\n../beside\ninside\nimport a_hook\n\
                    import sys; sys.path.append('/by/code')\nimport sys; sys.path += extra()\n\
                    import sys; sys.__plen = len(sys.path)\n";
        std::fs::write(site.join("a.pth"), text).unwrap();
        let read = read(&site.join("a.pth"), site).unwrap();
        assert_eq!(read.folders, [PathBuf::from("/far/lib"), site.parent().unwrap().join("beside")]);
        assert_eq!(read.code, [(7, Some(PathBuf::from("/by/code"))), (8, None)]);
    }
}
