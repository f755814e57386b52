//! The small scripts that installers write for entry points: what each of them writes is known, so that one
//! edited by hand is told from one that is made anew anywhere.
use super::entry_points::EntryPoint;

/// How a script begins whose interpreter's path is too long for a `#!` line.
const SHELL: &str = "#!/bin/sh\n'''exec' ";

/// The script's text without the lines that name its interpreter.
fn body(text: &str) -> &str {
    let lines = if text.starts_with(SHELL) { 3 } else { usize::from(text.starts_with("#!")) };
    (0..lines).fold(text, |rest, _| rest.split_once('\n').map_or("", |(_, rest)| rest))
}

/// Whether the script does what an installer's does for `point`, and nothing else. Those of pip (distlib),
/// uv and conda differ in quotes, comments and in how they cut `.exe` off; those of setuptools look the entry
/// point up.
pub fn is_wrapper(script: &[u8], point: &EntryPoint) -> bool {
    let Ok(text) = std::str::from_utf8(script) else { return false };
    let first = point.function.split('.').next().unwrap_or_default();
    let import = format!("from {} import {first}", point.module);
    let call = format!("sys.exit({}())", point.function);
    let (mut imports, mut calls, mut loads) = (0, 0, 0);
    for line in body(text).lines() {
        let line = line.trim().replace('"', "'");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == import {
            imports += 1;
        } else if line == call {
            calls += 1;
        } else if loads_point(&line, &point.name) {
            loads += 1;
        } else if !common(&line) && !of_setuptools(&line) {
            return false;
        }
    }
    matches!((imports, calls, loads), (1, 1, 0) | (0, 0, 1))
}

fn common(line: &str) -> bool {
    matches!(
        line,
        "import re"
            | "import sys"
            | "if __name__ == '__main__':"
            | "if sys.argv[0].endswith('-script.pyw'):"
            | "elif sys.argv[0].endswith('.exe'):"
            | "sys.argv[0] = sys.argv[0][:-11]"
            | "sys.argv[0] = sys.argv[0][:-4]"
            | "sys.argv[0] = sys.argv[0].removesuffix('.exe')"
            | r"sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])"
            | r"sys.argv[0] = re.sub(r'(-script\.pyw?|\.exe)?$', '', sys.argv[0])"
    )
}

/// `load_entry_point('pkg==1.0', 'console_scripts', 'tool')()`, alone or as what `sys.exit` is given.
fn loads_point(line: &str, name: &str) -> bool {
    let call = line.strip_prefix("sys.exit(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(line);
    let inner = call.strip_prefix("load_entry_point(").and_then(|rest| rest.strip_suffix(")()"));
    inner.is_some_and(|inner| {
        inner.split(", ").nth(2) == Some(&format!("'{name}'")) && inner.split(", ").count() == 3
    })
}

/// What is before it in the scripts of setuptools, which differ by version.
fn of_setuptools(line: &str) -> bool {
    line.strip_prefix("__requires__ = '").is_some_and(|rest| rest.find('\'') == Some(rest.len() - 1))
        || matches!(
            line,
            "try:"
                | "except ImportError:"
                | "from importlib.metadata import distribution"
                | "from importlib_metadata import distribution"
                | "from pkg_resources import load_entry_point"
                | "def importlib_load_entry_point(spec, group, name):"
                | "dist_name, _, _ = spec.partition('==')"
                | "matches = ("
                | "entry_point"
                | "for entry_point in distribution(dist_name).entry_points"
                | "if entry_point.group == group and entry_point.name == name"
                | ")"
                | "return next(matches).load()"
                | "globals().setdefault('load_entry_point', importlib_load_entry_point)"
                | "sys.exit("
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIP: &str = r"# -*- coding: utf-8 -*-
import re
import sys
from pkg.cli import App
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
    sys.exit(App.run())
";

    #[test]
    fn each_installers_is_known_and_an_edited_one_is_not() {
        let point: EntryPoint = "tool = pkg.cli:App.run".parse().unwrap();
        let is = |text: String| is_wrapper(text.as_bytes(), &point);
        assert!(is(format!("#!/v/bin/python\n{PIP}")));
        assert!(is(format!("{SHELL}/v/bin/python \"$0\" \"$@\"\n' '''\n{PIP}")));
        assert!(!is(format!("#!/v/bin/python\nimport os\n{PIP}")));
        assert!(!is(format!("#!/v/bin/python\n{}", PIP.replace("App", "Other"))));
        assert!(!is(format!("#!/v/bin/python\n{}", PIP.replace("    sys.exit(App.run())\n", ""))));
        assert!(!is_wrapper(b"#!/v/bin/python\n\xff", &point));
    }

    #[test]
    fn those_of_setuptools_look_the_point_up() {
        let point: EntryPoint = "tool = pkg.cli:App.run".parse().unwrap();
        let is = |text: &str| is_wrapper(format!("#!/v/bin/python\n{text}").as_bytes(), &point);
        let old = "# EASY-INSTALL-ENTRY-SCRIPT: 'pkg==1','console_scripts','tool'\n__requires__ = 'pkg==1'\nimport re\nimport sys\n\
                   from pkg_resources import load_entry_point\n\nif __name__ == '__main__':\n\
                   \x20   sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n    sys.exit(\n\
                   \x20       load_entry_point('pkg==1', 'console_scripts', 'tool')()\n    )\n";
        assert!(is(old));
        let new = "__requires__ = 'pkg==1'\ntry:\n    from importlib.metadata import distribution\nexcept ImportError:\n\
                   \x20   from pkg_resources import load_entry_point\n\
                   globals().setdefault('load_entry_point', importlib_load_entry_point)\n\
                   sys.exit(load_entry_point('pkg==1', 'console_scripts', 'tool')())\n";
        assert!(is(new));
        assert!(!is(&old.replace("'tool')", "'other')")));
        assert!(!is(&format!("{old}import os\n")));
        assert!(!is("from pkg_resources import load_entry_point\n"));
    }
}
