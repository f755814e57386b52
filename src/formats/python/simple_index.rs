//! The simple repository API: JSON (PEP 691) and HTML (PEP 503), reduced to the wheels of a project.
use super::digest::{Sha256Digest, hex_option, parse_hex};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use url::Url;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimpleIndexError {
    #[error("the answer is no index page in JSON ({0})")]
    Json(String),
    #[error("the answer has the API version {0}, only 1.x is known")]
    Version(String),
    #[error("the answer is no index page in HTML")]
    Html,
}

/// One wheel an index offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    pub filename: String,
    /// Absolute, without user and password.
    pub url: String,
    #[serde(with = "hex_option")]
    pub sha256: Option<Sha256Digest>,
    pub size: Option<u64>,
    pub yanked: bool,
}

#[derive(Deserialize)]
struct RawFile {
    filename: String,
    url: String,
    hashes: RawHashes,
    size: Option<u64>,
    yanked: Option<Yanked>,
}

#[derive(Deserialize)]
struct RawHashes {
    sha256: Option<String>,
}

/// PEP 691: `false`, `true`, or the reason as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Yanked {
    Flag(bool),
    Reason(IgnoredAny),
}

/// Reads a PEP 691 answer. Files are reduced one by one while parsing, so that a project with
/// thousands of them (each with metadata we never use) costs little memory.
pub fn parse_json(bytes: &[u8], page: &Url) -> Result<Vec<IndexFile>, SimpleIndexError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let answer = Answer(page)
        .deserialize(&mut reader)
        .and_then(|answer| reader.end().map(|()| answer))
        .map_err(|e| SimpleIndexError::Json(e.to_string()))?;
    match answer.1 {
        Some(version) if version.split('.').next() != Some("1") => Err(SimpleIndexError::Version(version)),
        _ => Ok(answer.0),
    }
}

struct Answer<'a>(&'a Url);

impl<'de> DeserializeSeed<'de> for Answer<'_> {
    type Value = (Vec<IndexFile>, Option<String>);
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "api-version")]
    api_version: Option<String>,
}

impl<'de> Visitor<'de> for Answer<'_> {
    type Value = (Vec<IndexFile>, Option<String>);
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a project's index page")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut files, mut version) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "files" => files = Some(map.next_value_seed(Files(self.0))?),
                "meta" => version = map.next_value::<Meta>()?.api_version,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let files = files.ok_or_else(|| serde::de::Error::missing_field("files"))?;
        Ok((files, version))
    }
}

struct Files<'a>(&'a Url);

impl<'de> DeserializeSeed<'de> for Files<'_> {
    type Value = Vec<IndexFile>;
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Files<'_> {
    type Value = Vec<IndexFile>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of files")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut out = Vec::new();
        while let Some(file) = seq.next_element::<RawFile>()? {
            if !file.filename.ends_with(".whl") {
                continue;
            }
            let Some(url) = join(self.0, &file.url) else {
                continue;
            };
            out.push(IndexFile {
                filename: file.filename,
                url,
                sha256: file.hashes.sha256.as_deref().and_then(parse_hex),
                size: file.size,
                yanked: match file.yanked {
                    None | Some(Yanked::Flag(false)) => false,
                    Some(Yanked::Flag(true)) | Some(Yanked::Reason(_)) => true,
                },
            });
        }
        out.shrink_to_fit();
        Ok(out)
    }
}

/// Resolves a link of a page; drops fragment and user. What its query has, the server may want.
pub fn join(page: &Url, link: &str) -> Option<String> {
    let mut url = page.join(link).ok()?;
    url.set_fragment(None);
    // Both only fail for URLs without a host, which cannot have them.
    let _ = url.set_password(None);
    if !url.scheme().ends_with("ssh") {
        let _ = url.set_username("");
    }
    Some(url.into())
}

/// Reads a PEP 503 page: every `<a href>` whose text or last path segment is a wheel's name.
/// A page without any anchor must at least look like HTML, so that an error text is no empty index.
pub fn parse_html(text: &str, page: &Url) -> Result<Vec<IndexFile>, SimpleIndexError> {
    let lower = text.to_ascii_lowercase();
    if !["<html", "<!doctype", "<a "].iter().any(|mark| lower.contains(mark)) {
        return Err(SimpleIndexError::Html);
    }
    let base = tag_at(&lower, text, "<base", 0)
        .and_then(|(attributes, _)| attribute(attributes, "href"))
        .and_then(|href| page.join(&href).ok())
        .unwrap_or_else(|| page.clone());
    let (mut out, mut from) = (Vec::new(), 0);
    while let Some((attributes, end)) = tag_at(&lower, text, "<a", from) {
        from = end;
        let Some(href) = attribute(attributes, "href") else {
            continue;
        };
        let Ok(url) = base.join(href.trim()) else {
            continue;
        };
        let label = text[end..].split('<').next().map(|t| unescape(t.trim())).unwrap_or_default();
        let segment = url.path_segments().and_then(|mut s| s.next_back()).unwrap_or_default();
        let filename = if label.ends_with(".whl") { label } else { percent_decoded(segment) };
        if !filename.ends_with(".whl") || filename.contains('/') {
            continue;
        }
        let sha256 = url.fragment().and_then(|fragment| {
            fragment.split('&').find_map(|part| part.strip_prefix("sha256=").and_then(parse_hex))
        });
        let Some(url) = join(&base, href.trim()) else {
            continue;
        };
        let yanked = attribute(attributes, "data-yanked").is_some();
        out.push(IndexFile { filename, url, sha256, size: None, yanked });
    }
    Ok(out)
}

/// The attributes of the next `open` tag from `from`, and the offset just behind its `>`.
fn tag_at<'a>(lower: &str, text: &'a str, open: &str, from: usize) -> Option<(&'a str, usize)> {
    let mut at = from;
    loop {
        let start = at + lower.get(at..)?.find(open)? + open.len();
        at = start;
        // "<a" must not match "<abbr".
        if !lower[start..].starts_with(|c: char| c.is_whitespace() || c == '>') {
            continue;
        }
        let (mut quote, mut end) = (None, None);
        for (offset, byte) in lower[start..].bytes().enumerate() {
            match (quote, byte) {
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), _) if open == byte => quote = None,
                (None, b'>') => {
                    end = Some(start + offset);
                    break;
                }
                _ => {}
            }
        }
        let end = end?;
        return Some((&text[start..end], end + 1));
    }
}

/// The value of an attribute; an attribute without a value is the empty string.
fn attribute(attributes: &str, name: &str) -> Option<String> {
    let mut rest = attributes.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('=') {
            None => ("", after),
            Some(value) => {
                let value = value.trim_start();
                match value.chars().next() {
                    Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
                    _ => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
                }
            }
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(unescape(value));
        }
        rest = if next.len() < rest.len() { next.trim_start() } else { "" };
    }
    None
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#43;", "+")
        .replace("&#x2B;", "+")
        .replace("&amp;", "&")
}

/// A path segment of a URL, decoded ("%2B" stands in local versions such as 2.3.0+cu121).
pub fn percent_decoded(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    let digit = |index: usize| bytes.get(index).and_then(|b| (*b as char).to_digit(16));
    while at < bytes.len() {
        if bytes[at] == b'%'
            && let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2))
        {
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn page() -> Url {
        Url::parse("https://index.example/simple/torch/").unwrap()
    }

    #[test]
    fn json() {
        let text = format!(
            r#"{{"meta":{{"api-version":"1.1","_last-serial":1}},"name":"torch","versions":["1"],"files":[
            {{"filename":"torch-1.tar.gz","url":"torch-1.tar.gz","hashes":{{}}}},
            {{"filename":"torch-1-py3-none-any.whl","url":"../../p/torch-1-py3-none-any.whl","hashes":{{"sha256":"{SHA}","md5":"0"}},"size":12,"yanked":"broken","requires-python":null,"core-metadata":{{"sha256":"x"}}}},
            {{"filename":"torch-2-py3-none-any.whl","url":"https://u:p@files.example/t.whl#x","hashes":{{}},"yanked":false}}]}}"#
        );
        let files = parse_json(text.as_bytes(), &page()).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].url, "https://index.example/p/torch-1-py3-none-any.whl");
        assert_eq!((files[0].sha256, files[0].size), (parse_hex(SHA), Some(12)));
        assert!(files[0].yanked && !files[1].yanked);
        assert_eq!(files[1].url, "https://files.example/t.whl");
        let copy: IndexFile = serde_json::from_str(&serde_json::to_string(&files[0]).unwrap()).unwrap();
        assert_eq!(copy, files[0]);
    }

    #[test]
    fn html() {
        let text = format!(
            "<!DOCTYPE html><html><head><base href=\"/whl/cu121/\"></head><body><abbr>x</abbr>\n\
             <a href=\"torch-2.3.0%2Bcu121-cp311-cp311-linux_x86_64.whl#sha256={SHA}\" data-requires-python=\"&gt;=3.8\">torch-2.3.0+cu121-cp311-cp311-linux_x86_64.whl</a><br/>\n\
             <A HREF='torch-1-py3-none-any.whl' data-yanked>link</A><a href=\"../x.zip\">x.zip</a></body></html>"
        );
        let files = parse_html(&text, &page()).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].filename, "torch-2.3.0+cu121-cp311-cp311-linux_x86_64.whl");
        assert_eq!(
            files[0].url,
            "https://index.example/whl/cu121/torch-2.3.0%2Bcu121-cp311-cp311-linux_x86_64.whl"
        );
        assert_eq!(files[0].sha256, parse_hex(SHA));
        assert!(!files[0].yanked && files[1].yanked);
        assert_eq!(files[1].sha256, None);
        assert_eq!(files[1].filename, "torch-1-py3-none-any.whl");
    }

    #[test]
    fn errors() {
        let json = |b: &[u8]| parse_json(b, &page()).unwrap_err().to_string();
        assert_eq!(
            json(b"{}"),
            "the answer is no index page in JSON (missing field `files` at line 1 column 2)"
        );
        assert_eq!(
            json(b"<html>"),
            "the answer is no index page in JSON (expected value at line 1 column 1)"
        );
        assert_eq!(
            json(br#"{"meta":{"api-version":"2.0"},"files":[]}"#),
            "the answer has the API version 2.0, only 1.x is known"
        );
        let html = parse_html("Internal error", &page()).unwrap_err().to_string();
        assert_eq!(html, "the answer is no index page in HTML");
        assert_eq!(parse_html("<html><a href=\"unclosed", &page()).unwrap(), []);
    }

    proptest::proptest! {
        #[test]
        fn html_never_panics(text in "(<a |href|=|\"|'|>|</a>|é|x.whl|&amp;|%2|#sha256=| |\n|<base ){0,40}") {
            let _ = parse_html(&text, &page());
        }
    }
}
