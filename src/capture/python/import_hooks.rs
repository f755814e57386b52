//! Editable installs whose import hook builds the project anew at each import. A store is read-only and has no compiler, so
//! such a distribution does not import from a snapshot, unless what was built last ships (`last_build`). What the hook would do is
//! told from its text, which is not run.
use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::installed::Installed;
use crate::formats::python::direct_url::DirectKind;
use crate::formats::python::literal::{Literal, last_call};

/// Hooks list every module of a project.
const LIMIT: u64 = 16 << 20;

pub const MESON: &str = "meson-python";
pub const SCIKIT: &str = "scikit-build-core";

pub fn findings(all: &[Installed]) -> Vec<Finding> {
    all.iter().filter(|one| editable(one)).filter_map(about).collect()
}

pub fn editable(one: &Installed) -> bool {
    let editable = DirectKind::Directory { editable: true };
    one.direct_url.as_ref().is_some_and(|direct| direct.kind == editable)
}

/// The hook of an editable install that builds: its name, its text, and who made it.
pub fn hook(one: &Installed) -> Option<(String, String, &'static str)> {
    let top = one.files.iter().filter(|(name, _)| !name.contains('/') && name.ends_with(".py"));
    top.filter_map(|(name, file)| {
        let text = read_small(&file.disk, LIMIT)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let builder = builder(&text)?;
        Some((name.clone(), text, builder))
    })
    .next()
}

fn about(one: &Installed) -> Option<Finding> {
    let (_, _, builder) = hook(one)?;
    let message = format!(
        "an editable install of {builder}, which is built at each import: a host cannot do that, and it does not import there; \
         install it without -e"
    );
    Some(finding(Severity::Problem, Topic::Imports, one.name.clone(), message))
}

/// Who made the hook, if it builds.
fn builder(text: &str) -> Option<&'static str> {
    // The variable that its hook asks which projects not to build.
    if text.contains("MESONPY_EDITABLE_SKIP") {
        return Some(MESON);
    }
    if !text.contains("ScikitBuildRedirectingFinder") {
        return None;
    }
    // install({module: source}, {module: installed}, …, build folder, rebuild, …)
    let arguments = last_call(text, "install")?;
    let folder = arguments.iter().position(|argument| argument.text().is_some())?;
    (arguments.get(folder + 1) == Some(&Literal::Bool(true))).then_some(SCIKIT)
}

#[cfg(test)]
mod tests {
    use super::builder;

    #[test]
    fn who_builds_at_import() {
        let meson =
            "MARKER = 'MESONPY_EDITABLE_SKIP'\ninstall('pkg', {'pkg'}, '/p/build/cp311', ['ninja'], False)\n";
        assert_eq!(builder(meson), Some("meson-python"));
        let scikit = |rebuild: &str| {
            let known = "{'pkg': '/p/pkg/__init__.py'}, {'pkg._core': 'pkg/_core.so'}";
            format!(
                "class ScikitBuildRedirectingFinder: pass\n\ninstall({known}, '/p/build', {rebuild}, True, [], [], '')\n"
            )
        };
        assert_eq!(builder(&scikit("True")), Some("scikit-build-core"));
        assert_eq!(builder(&scikit("False")), None);
        let newer = "class ScikitBuildRedirectingFinder: pass\n\ninstall({}, {}, {'pkg': ['/p']}, ['pkg', 'b'], '/build', True, False)\n";
        assert_eq!(builder(newer), Some("scikit-build-core"));
        assert_eq!(builder("MAPPING = {'pkg': '/p/pkg'}\ndef install(): pass\ninstall()\n"), None);
    }
}
