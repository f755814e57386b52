//! RECORD, PEP 376 and PEP 427: a CSV of path, hash, size.
use super::digest::{Sha256Digest, base64url, parse_base64url};
use super::member_name::{self, MemberNameError};
use std::collections::HashSet;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("is not CSV in UTF-8 (row {0})")]
    Csv(usize),
    #[error("has {1} columns in row {0}, expected 3")]
    Columns(usize, usize),
    #[error("names {0:?}, which {1}")]
    Name(String, MemberNameError),
    #[error("names {0:?} twice")]
    Duplicate(String),
    #[error("has the hash {1:?} for {0:?}, only sha256 is accepted")]
    Algorithm(String, String),
    #[error("has a malformed sha256 for {0:?}")]
    Digest(String),
    #[error("has the size {1:?} for {0:?}, which is no number")]
    Size(String, String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    pub path: String,
    pub sha256: Option<Sha256Digest>,
    pub size: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub rows: Vec<RecordRow>,
}

impl Record {
    /// A wheel's own RECORD: every name must stay inside the wheel, once, hashed by sha256 if at all.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record = read(bytes, true)?;
        let mut seen = HashSet::with_capacity(record.rows.len());
        for row in &record.rows {
            member_name::check(&row.path).map_err(|e| RecordError::Name(row.path.clone(), e))?;
            if !seen.insert(row.path.as_str()) {
                return Err(RecordError::Duplicate(row.path.clone()));
            }
        }
        Ok(record)
    }

    /// RECORD as an installer leaves it: `../../../bin/x` and absolute names are legal there, rows
    /// may repeat, other or broken hashes count as none. The caller decides where a path may lead.
    pub fn parse_installed(bytes: &[u8]) -> Result<Self, RecordError> {
        read(bytes, false)
    }

    /// Prints as `csv.writer` with `lineterminator="\n"` does, the way installers and wheels write it.
    pub fn print(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            if row.path.contains(['"', ',', '\n', '\r']) {
                out.push('"');
                out.push_str(&row.path.replace('"', "\"\""));
                out.push('"');
            } else {
                out.push_str(&row.path);
            }
            out.push(',');
            if let Some(digest) = &row.sha256 {
                out.push_str("sha256=");
                out.push_str(&base64url(digest));
            }
            out.push(',');
            if let Some(size) = row.size {
                out.push_str(&size.to_string());
            }
            out.push('\n');
        }
        out
    }
}

fn read(bytes: &[u8], strict: bool) -> Result<Record, RecordError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut rows = Vec::new();
    for (index, line) in reader.records().enumerate() {
        let line = line.map_err(|_| RecordError::Csv(index + 1))?;
        // Installers accept rows cut short; a wheel's own must be whole.
        if line.len() != 3 && (strict || line.is_empty()) {
            return Err(RecordError::Columns(index + 1, line.len()));
        }
        let path = line.get(0).unwrap_or("").to_owned();
        let hash = line.get(1).unwrap_or("");
        let size = line.get(2).unwrap_or("");
        let sha256 = match hash.split_once('=') {
            _ if hash.is_empty() => None,
            Some(("sha256", text)) => match parse_base64url(text) {
                Some(digest) => Some(digest),
                None if strict => return Err(RecordError::Digest(path)),
                None => None,
            },
            _ if strict => return Err(RecordError::Algorithm(path, hash.to_owned())),
            _ => None,
        };
        let size = match size.parse::<u64>() {
            Ok(size) => Some(size),
            Err(_) if size.is_empty() || !strict => None,
            Err(_) => return Err(RecordError::Size(path, size.to_owned())),
        };
        rows.push(RecordRow { path, sha256, size });
    }
    Ok(Record { rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    #[test]
    fn round_trips() {
        let text = format!(
            "six/__init__.py,{EMPTY},0\n\"odd, \"\"name\"\".py\",{EMPTY},0\nsix-1.dist-info/RECORD,,\n"
        );
        let record = Record::parse(text.as_bytes()).unwrap();
        assert_eq!(record.rows.len(), 3);
        assert_eq!(record.rows[1].path, "odd, \"name\".py");
        assert_eq!(
            record.rows[2],
            RecordRow { path: "six-1.dist-info/RECORD".into(), sha256: None, size: None }
        );
        assert_eq!(record.print(), text);
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(Record::parse(crlf.as_bytes()).unwrap(), record);
    }

    #[test]
    fn installed_rows_may_leave() {
        let text = format!("../../../bin/x,{EMPTY},0\n/abs,md5=xx,\nshort\nshort\n");
        let record = Record::parse_installed(text.as_bytes()).unwrap();
        assert_eq!(record.rows.len(), 4);
        assert_eq!(record.rows[1].sha256, None);
    }

    #[test]
    fn errors() {
        let text = |s: String| Record::parse(s.as_bytes()).unwrap_err().to_string();
        assert_eq!(text("a,\n".into()), "has 2 columns in row 1, expected 3");
        assert_eq!(text("../a,,\n".into()), "names \"../a\", which holds a \"..\" component");
        assert_eq!(text("/a,,\n".into()), "names \"/a\", which is absolute");
        assert_eq!(text("a\0,,\n".into()), "names \"a\\0\", which holds a NUL byte");
        assert_eq!(text("a\\b,,\n".into()), "names \"a\\\\b\", which holds a backslash");
        assert_eq!(text("a,,\nb,,\na,,\n".into()), "names \"a\" twice");
        assert_eq!(text("a,md5=0,\n".into()), "has the hash \"md5=0\" for \"a\", only sha256 is accepted");
        assert_eq!(text("a,sha256=0,\n".into()), "has a malformed sha256 for \"a\"");
        assert_eq!(text("a,,many\n".into()), "has the size \"many\" for \"a\", which is no number");
        let bytes = Record::parse(b"a,,\n\xff,,\n").unwrap_err().to_string();
        assert_eq!(bytes, "is not CSV in UTF-8 (row 2)");
    }

    proptest::proptest! {
        #[test]
        fn prints_what_it_parses(rows in proptest::collection::btree_map("[a-z ,\"é\n]{1,12}", (proptest::array::uniform32(0u8..), 0u64..), 0..6)) {
            let rows = rows.into_iter().filter(|(path, _)| member_name::check(path).is_ok());
            let rows = rows.map(|(path, (digest, size))| RecordRow { path, sha256: Some(digest), size: Some(size) });
            let record = Record { rows: rows.collect() };
            let text = record.print();
            proptest::prop_assert_eq!(Record::parse(text.as_bytes()).unwrap(), record);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = Record::parse(&bytes);
            let _ = Record::parse_installed(&bytes);
        }
    }
}
