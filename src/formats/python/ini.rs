//! The INI dialect of Python's `configparser`, as far as pip.conf and entry_points.txt use it:
//! sections, full-line comments, continuation lines; no interpolation.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IniError {
    #[error("line {0}: a value before the first [section]")]
    NoSection(usize),
    #[error("line {0}: expected \"key = value\"")]
    NoDelimiter(usize),
    #[error("line {0}: a section header without \"]\"")]
    Header(usize),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    pub sections: Vec<(String, Vec<(String, String)>)>,
}

impl Ini {
    pub fn parse(text: &str, delimiters: &[char]) -> Result<Self, IniError> {
        let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            let last = sections.last_mut().and_then(|(_, entries)| entries.last_mut());
            if line.starts_with([' ', '\t'])
                && let Some((_, value)) = last
            {
                value.push('\n');
                value.push_str(trimmed);
                continue;
            }
            if let Some(header) = trimmed.strip_prefix('[') {
                let name = header.split_once(']').ok_or(IniError::Header(index + 1))?.0;
                sections.push((name.trim().to_owned(), Vec::new()));
                continue;
            }
            let (_, entries) = sections.last_mut().ok_or(IniError::NoSection(index + 1))?;
            let (key, value) = trimmed.split_once(delimiters).ok_or(IniError::NoDelimiter(index + 1))?;
            entries.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(Ini { sections })
    }

    /// Every entry of every section of that name, in order.
    pub fn entries<'a>(&'a self, section: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let section = section.to_owned();
        self.sections
            .iter()
            .filter(move |(name, _)| *name == section)
            .flat_map(|(_, entries)| entries.iter().map(|(k, v)| (k.as_str(), v.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuation_and_comments() {
        let ini = Ini::parse("# c\n[a]\nk =\n  one\n  two\n; c\nl: x=y\n[b]\n", &['=', ':']).unwrap();
        let a: Vec<_> = ini.entries("a").collect();
        assert_eq!(a, [("k", "\none\ntwo"), ("l", "x=y")]);
        assert_eq!(ini.entries("b").count(), 0);
    }

    #[test]
    fn errors() {
        let text = |s: &str| Ini::parse(s, &['=']).unwrap_err().to_string();
        assert_eq!(text("k = v\n"), "line 1: a value before the first [section]");
        assert_eq!(text("[a]\nnothing\n"), "line 2: expected \"key = value\"");
        assert_eq!(text("\n[a\n"), "line 2: a section header without \"]\"");
    }
}
