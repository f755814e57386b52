//! Programs that the configuration names: where they are, what they are, and which cannot ship.
use crate::capture::files::paths::read_at_most;
use crate::capture::system::libraries::Native;
use crate::formats::elf::looks_like_elf;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::programs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Of a script: what its first line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// As it is written: `/usr/bin/perl`, or a name where `env` looks for it.
    pub program: String,
    /// What follows it in the line.
    pub arguments: String,
    /// Where `env` looks for it: the options and variables that it is given first.
    pub env: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    Native(Native),
    /// It needs nothing of the system.
    Static,
    Script(Interpreter),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The name that it is called by.
    pub name: String,
    /// Where it was found, and the file that this leads to.
    pub found: PathBuf,
    pub file: PathBuf,
    pub form: Form,
}

const CHANGE: &str = "install it on this machine, or take it out of [service] programs";

/// The programs by name, sorted.
pub fn find(wanted: &[String]) -> Result<Vec<Program>> {
    let mut all: Vec<Program> = wanted.iter().map(|wanted| look(wanted)).collect::<Result<_>>()?;
    all.sort_by(|a, b| (&a.name, &a.file).cmp(&(&b.name, &b.file)));
    all.dedup();
    if let Some((a, b)) = all.iter().zip(all.iter().skip(1)).find(|(a, b)| a.name == b.name) {
        let both = format!("{} and {}", a.found.display(), b.found.display());
        return Err(Error::new(Kind::Input, format!("{both} are two programs of one name"))
            .hint("a service finds programs by name: take one of them out of [service] programs"));
    }
    Ok(all)
}

fn look(wanted: &str) -> Result<Program> {
    let absent = |why: &str| Error::new(Kind::Input, format!("the program {wanted} {why}")).hint(CHANGE);
    let found = match wanted.contains('/') {
        true => PathBuf::from(wanted),
        false => programs::passed_over(wanted)
            .or_else(|| programs::find(wanted))
            .ok_or_else(|| absent("is in no folder of PATH"))?,
    };
    let file = found.canonicalize().map_err(|e| absent("cannot be opened").caused_by(e))?;
    let name = found.file_name().and_then(|name| name.to_str()).ok_or_else(|| absent("has no name"))?;
    may_ship(&file, wanted)?;
    let form = form(&file)?;
    Ok(Program { name: name.into(), found: found.clone(), file, form })
}

/// What a store cannot hold is refused: the program would run, and fail at what it is for.
fn may_ship(file: &Path, wanted: &str) -> Result<()> {
    let meta = file.metadata().map_err(|e| Error::io("look at", file, e))?;
    let refused = |why: &str| {
        let text = format!("the program {wanted} ({}) {why}", file.display());
        Err(Error::new(Kind::Input, text).hint("take it out of [service] programs"))
    };
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return refused("is no file that may be run");
    }
    if meta.permissions().mode() & 0o6000 != 0 {
        return refused("is setuid or setgid: a Nix store holds no such files, and instances gain no rights");
    }
    if rustix::fs::getxattr(file, "security.capability", &mut [0_u8; 64][..]).is_ok_and(|size| size > 0) {
        return refused("has capabilities: a Nix store does not hold them, and instances gain no rights");
    }
    Ok(())
}

fn form(file: &Path) -> Result<Form> {
    let mut head = Vec::new();
    let opened = std::fs::File::open(file).map_err(|e| Error::io("open", file, e))?;
    opened.take(4096).read_to_end(&mut head).map_err(|e| Error::io("read", file, e))?;
    if looks_like_elf(&head) {
        return Ok(Native::of(file)?.map_or(Form::Static, Form::Native));
    }
    interpreter(&head).map(Form::Script).ok_or_else(|| {
        let text = format!("{} is neither an ELF program nor a script", file.display());
        Error::new(Kind::Input, text).hint("take it out of [service] programs")
    })
}

/// What the first line of a script (execve(2), "Interpreter scripts") names.
fn interpreter(head: &[u8]) -> Option<Interpreter> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let (program, rest) = first_word(&line)?;
    if !program.ends_with("/env") {
        return Some(Interpreter { program: program.into(), arguments: rest.into(), env: None });
    }
    // env(1): options and variables come before the name.
    let (mut before, mut rest) = (Vec::new(), rest);
    loop {
        if let Some(split) = rest.strip_prefix("-S").or_else(|| rest.strip_prefix("--split-string=")) {
            rest = split.trim_start();
            continue;
        }
        let (word, more) = first_word(rest)?;
        if !word.starts_with('-') && !word.contains('=') {
            let (program, arguments) = (word.into(), more.into());
            return Some(Interpreter { program, arguments, env: Some(before.join(" ")) });
        }
        before.push(word);
        rest = more;
        if ["-u", "--unset", "-C", "--chdir"].contains(&word) {
            let (value, more) = first_word(rest)?;
            before.push(value);
            rest = more;
        }
    }
}

fn first_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (!word.is_empty()).then(|| (word, rest.trim()))
}

impl Interpreter {
    /// On every host (POSIX, "sh").
    pub fn is_everywhere(&self) -> bool {
        matches!(self.program.as_str(), "sh" | "/bin/sh" | "/usr/bin/sh")
    }

    /// The first line of a script that starts `place` in its stead.
    pub fn line(&self, place: &str) -> String {
        // The kernel gives all that follows as one argument (execve(2)); `env -S` takes it apart.
        let line = match self.env.as_deref() {
            Some(before) if !before.is_empty() || self.arguments.contains(char::is_whitespace) => {
                let before = if before.is_empty() { String::new() } else { format!("{before} ") };
                format!("#!/usr/bin/env -S {before}{place} {}", self.arguments)
            }
            _ => format!("#!{place} {}", self.arguments),
        };
        line.trim_end().to_string()
    }

    /// Whether a program that ships is this one.
    pub fn is(&self, program: &Program) -> bool {
        match self.program.contains('/') {
            false => self.program == program.name,
            true => Path::new(&self.program).canonicalize().is_ok_and(|file| file == program.file),
        }
    }
}

/// A script with another first line.
pub fn with_first_line(file: &Path, line: &str) -> Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;
    let text = read_at_most(file, MOST).map_err(|e| Error::io("read", file, e))?;
    let rest = text.iter().position(|b| *b == b'\n').map_or(&b"\n"[..], |end| &text[end..]);
    Ok([line.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn program(path: &Path, text: &str, mode: u32) -> String {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn the_interpreter_of_a_script() {
        let read = |text: &str| {
            interpreter(text.as_bytes()).map(|found| format!("{} {}", found.program, found.arguments))
        };
        for (text, wanted) in [
            ("#!/bin/sh\nexec x\n", "/bin/sh "),
            ("#! /usr/bin/perl  -w \n", "/usr/bin/perl -w"),
            ("#!/usr/bin/env python3\n", "python3 "),
            ("#!/usr/bin/env -S A=b python3 -u\n", "python3 -u"),
            ("#!/usr/bin/env -Spython3 -u\n", "python3 -u"),
        ] {
            assert_eq!(read(text).unwrap(), wanted);
        }
        for text in ["", "#!", "#!/usr/bin/env\n", "echo\n"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn another_program_gets_the_same_words() {
        for (text, wanted) in [
            ("#!/usr/bin/perl -w\n", "#!/p -w"),
            ("#!/usr/bin/env python3\n", "#!/p"),
            ("#!/usr/bin/env -S python3 -u\n", "#!/p -u"),
            ("#!/usr/bin/env -S python3 -u -B\n", "#!/usr/bin/env -S /p -u -B"),
            ("#!/usr/bin/env -S -u HOME -i A=b python3 -u\n", "#!/usr/bin/env -S -u HOME -i A=b /p -u"),
            ("#!/usr/bin/env -S --chdir /srv sift\n", "#!/usr/bin/env -S --chdir /srv /p"),
        ] {
            assert_eq!(interpreter(text.as_bytes()).unwrap().line("/p"), wanted, "{text}");
        }
    }

    #[test]
    fn links_are_followed_and_the_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        program(&at("convert-im6"), "#!/bin/sh\n", 0o755);
        symlink(at("convert-im6"), at("alternative")).unwrap();
        symlink(at("alternative"), at("convert")).unwrap();
        let me = std::env::current_exe().unwrap().display().to_string();
        let found = find(&[at("convert").display().to_string(), me.clone(), me]).unwrap();
        let convert = found.iter().find(|program| program.name == "convert").unwrap();
        assert_eq!(convert.file, at("convert-im6").canonicalize().unwrap());
        assert!(matches!(&convert.form, Form::Script(interpreter) if interpreter.is_everywhere()));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_cannot_ship_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        let at = |name: &str, text: &str, mode: u32| program(&dir.path().join(name), text, mode);
        let said = |wanted: &[String]| {
            let error = find(wanted).unwrap_err();
            assert_eq!(error.kind, Kind::Input);
            error.full()
        };
        for (wanted, text) in [
            ("no-such-program-here".to_string(), "is in no folder of PATH"),
            (dir.path().join("gone").display().to_string(), "cannot be opened"),
            (at("plain", "#!/bin/sh\n", 0o644), "is no file that may be run"),
            (at("mighty", "#!/bin/sh\n", 0o4755), "is setuid or setgid"),
            (at("group", "#!/bin/sh\n", 0o2755), "is setuid or setgid"),
            (at("data", "\0\0\0", 0o755), "neither an ELF program nor a script"),
        ] {
            assert!(said(std::slice::from_ref(&wanted)).contains(text), "{wanted}");
        }
        let two = [at("twice", "#!/bin/sh\n", 0o755), at("other/twice", "#!/bin/sh\n", 0o755)];
        assert!(said(&two).contains("two programs of one name"));
    }
}
