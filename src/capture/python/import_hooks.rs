//! Editable installs whose import hook builds the project anew at each import. A store is read-only and has no compiler, so
//! such a distribution does not import from a snapshot. What the hook would do is told from its text, which is not run.
use crate::capture::files::paths::{finding, read_small};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::installed::Installed;
use crate::formats::python::direct_url::DirectKind;

/// Hooks list every module of a project.
const LIMIT: u64 = 16 << 20;

pub fn findings(all: &[Installed]) -> Vec<Finding> {
    all.iter().filter(|one| editable(one)).filter_map(about).collect()
}

fn editable(one: &Installed) -> bool {
    let editable = DirectKind::Directory { editable: true };
    one.direct_url.as_ref().is_some_and(|direct| direct.kind == editable)
}

fn about(one: &Installed) -> Option<Finding> {
    let hooks = one.files.iter().filter(|(name, _)| !name.contains('/') && name.ends_with(".py"));
    let builder = hooks.filter_map(|(_, file)| builder(&read_small(&file.disk, LIMIT)?)).next()?;
    let message = format!(
        "an editable install of {builder}, which is built at each import: a host cannot do that, and it does not import there; \
         install it without -e"
    );
    Some(finding(Severity::Problem, Topic::Imports, one.name.clone(), message))
}

/// Who made the hook, if it builds.
fn builder(text: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(text);
    // The variable that its hook asks which projects not to build.
    if text.contains("MESONPY_EDITABLE_SKIP") {
        return Some("meson-python");
    }
    // install({module: source}, {module: installed}, build folder, rebuild, ...)
    let call = text.lines().rev().find(|line| line.starts_with("install({"))?;
    let (_, rest) = call.rsplit_once("}, ")?;
    let rebuilds = rest.split(", ").nth(1) == Some("True");
    (rebuilds && text.contains("ScikitBuildRedirectingFinder")).then_some("scikit-build-core")
}

#[cfg(test)]
mod tests {
    use super::builder;

    #[test]
    fn who_builds_at_import() {
        let meson =
            "MARKER = 'MESONPY_EDITABLE_SKIP'\ninstall('pkg', {'pkg'}, '/p/build/cp311', ['ninja'], False)\n";
        assert_eq!(builder(meson.as_bytes()), Some("meson-python"));
        let scikit = |rebuild: &str| {
            let known = "{'pkg': '/p/pkg/__init__.py'}, {'pkg._core': 'pkg/_core.so'}";
            format!(
                "class ScikitBuildRedirectingFinder: pass\n\ninstall({known}, '/p/build', {rebuild}, True, [], [], '')\n"
            )
        };
        assert_eq!(builder(scikit("True").as_bytes()), Some("scikit-build-core"));
        assert_eq!(builder(scikit("False").as_bytes()), None);
        assert_eq!(builder(b"MAPPING = {'pkg': '/p/pkg'}\ndef install(): pass\ninstall()\n"), None);
    }
}
