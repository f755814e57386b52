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
/// uv and conda differ in quotes, comments and in how they cut `.exe` off; the old ones of setuptools ask
/// `pkg_resources`.
pub fn is_wrapper(script: &[u8], point: &EntryPoint) -> bool {
    let Ok(text) = std::str::from_utf8(script) else { return false };
    let first = point.function.split('.').next().unwrap_or_default();
    let import = format!("from {} import {first}", point.module);
    let call = format!("sys.exit({}())", point.function);
    let (mut imports, mut calls) = (0, 0);
    for line in body(text).lines() {
        let line = line.trim().replace('"', "'");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == import {
            imports += 1;
        } else if line == call {
            calls += 1;
        } else if line.contains("load_entry_point") {
            return true;
        } else if !common(&line) {
            return false;
        }
    }
    (imports, calls) == (1, 1)
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
}
