//! `multipart/form-data` (RFC 7578), read as it comes: fields are kept, the content of the file goes through. Nothing
//! here grows with what a client sends: heads and fields have their limits.
use std::collections::BTreeMap;

/// A part's head, a field, and all fields together.
const HEAD: usize = 16 << 10;
const FIELD: usize = 64 << 10;
const FIELDS: usize = 64;

/// What a piece of the body was.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The file begins.
    File {
        name: Option<String>,
        content_type: Option<String>,
    },
    Data(Vec<u8>),
    FileEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The name of the part that is the file.
pub struct Multipart {
    file: &'static str,
    /// What stands between two parts: a line break, two hyphens, the boundary.
    delimiter: Vec<u8>,
    unread: Vec<u8>,
    state: State,
    pub fields: BTreeMap<String, String>,
}

#[derive(Debug)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// Behind a delimiter: the end, or another part.
    Delimited,
    Head,
    Field {
        name: String,
        value: Vec<u8>,
    },
    File,
    /// A part that nobody wants.
    Other,
    End,
}

/// The boundary that a `Content-Type` names.
pub fn boundary(content_type: &str) -> Option<String> {
    let mut parameters = content_type.split(';');
    if !parameters.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameters.find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then(|| value.trim_matches('"'))
    })?;
    (1..=200).contains(&value.len()).then(|| value.to_string())
}

impl Multipart {
    pub fn new(boundary: &str, file: &'static str) -> Multipart {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The first one may stand at the very beginning.
        let unread = b"\r\n".to_vec();
        Multipart { file, delimiter, unread, state: State::Preamble, fields: BTreeMap::new() }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::End)
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
        self.unread.extend_from_slice(bytes);
        let mut events = Vec::new();
        while self.step(&mut events)? {}
        Ok(events)
    }

    /// Whether there is more to be read in what has come.
    fn step(&mut self, events: &mut Vec<Event>) -> Result<bool, Malformed> {
        match &mut self.state {
            State::End => {
                self.unread.clear();
                Ok(false)
            }
            State::Delimited => {
                let Some(two) = self.unread.first_chunk::<2>() else { return Ok(false) };
                self.state = match two {
                    b"--" => State::End,
                    b"\r\n" => State::Head,
                    _ => return Err(Malformed("a boundary ends with a line")),
                };
                self.unread.drain(..2);
                Ok(true)
            }
            State::Head => {
                let Some(end) = find(&self.unread, b"\r\n\r\n") else {
                    return if self.unread.len() > HEAD {
                        Err(Malformed("a part's head is too long"))
                    } else {
                        Ok(false)
                    };
                };
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                let head = String::from_utf8(head).map_err(|_| Malformed("a part's head is UTF-8"))?;
                self.state = self.begin(&head, events)?;
                Ok(true)
            }
            State::Preamble | State::Field { .. } | State::File | State::Other => self.content(events),
        }
    }

    /// Content, up to the next delimiter or as far as it cannot be one.
    fn content(&mut self, events: &mut Vec<Event>) -> Result<bool, Malformed> {
        let found = find(&self.unread, &self.delimiter);
        let until = found.unwrap_or_else(|| self.unread.len().saturating_sub(self.delimiter.len() - 1));
        let data: Vec<u8> = self.unread.drain(..until).collect();
        match &mut self.state {
            State::File if !data.is_empty() => events.push(Event::Data(data)),
            State::Field { value, .. } => {
                value.extend_from_slice(&data);
                if value.len() > FIELD {
                    return Err(Malformed("a field is too long"));
                }
            }
            _ => {}
        }
        if found.is_none() {
            return Ok(false);
        }
        self.unread.drain(..self.delimiter.len());
        match std::mem::replace(&mut self.state, State::Delimited) {
            State::File => events.push(Event::FileEnd),
            State::Field { name, value } => {
                let value = String::from_utf8(value).map_err(|_| Malformed("a field is UTF-8"))?;
                if self.fields.len() >= FIELDS {
                    return Err(Malformed("there are too many fields"));
                }
                self.fields.insert(name, value);
            }
            _ => {}
        }
        Ok(true)
    }

    fn begin(&self, head: &str, events: &mut Vec<Event>) -> Result<State, Malformed> {
        let header = |wanted: &str| {
            head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())
            })
        };
        let disposition =
            header("content-disposition").ok_or(Malformed("a part has no Content-Disposition"))?;
        let name = parameter(disposition, "name").ok_or(Malformed("a part has no name"))?;
        if name == self.file {
            let content_type = header("content-type").map(String::from);
            events.push(Event::File { name: parameter(disposition, "filename"), content_type });
            return Ok(State::File);
        }
        if parameter(disposition, "filename").is_some() {
            return Ok(State::Other);
        }
        Ok(State::Field { name, value: Vec::new() })
    }
}

/// A parameter of a header, quoted or not; a backslash stands before a quote that is one of the value.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    let mut rest = header.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (mut value, mut escaped, mut end) = (String::new(), false, None);
                for (at, c) in quoted.char_indices() {
                    match c {
                        _ if escaped => {
                            value.push(c);
                            escaped = false;
                        }
                        // Browsers send Windows paths with single backslashes: only a quote is escaped.
                        '\\' if quoted[at + 1..].starts_with('"') => escaped = true,
                        '"' => {
                            end = Some(at);
                            break;
                        }
                        _ => value.push(c),
                    }
                }
                (value, &quoted[end? + 1..])
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_string(), &after[end..])
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = behind.split_once(';')?.1;
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = text.get(from..)?.iter().position(|byte| *byte == first) {
        if text[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(content: &[u8]) -> Vec<u8> {
        let mut body =
            b"--B\r\nContent-Disposition: form-data; name=\"content_type\"\r\n\r\nimage/png\r\n".to_vec();
        body.extend_from_slice(
            b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".png\"\r\n",
        );
        body.extend_from_slice(b"Content-Type: image/png\r\n\r\n");
        body.extend_from_slice(content);
        body.extend_from_slice(
            b"\r\n--B\r\ncontent-disposition: form-data; name=file_path\r\n\r\n\r\n--B--\r\nepilogue",
        );
        body
    }

    fn read(body: &[u8], chunk: usize) -> (Vec<u8>, Vec<Event>, BTreeMap<String, String>, bool) {
        let mut multipart = Multipart::new("B", "file");
        let (mut data, mut others) = (Vec::new(), Vec::new());
        for piece in body.chunks(chunk) {
            for event in multipart.feed(piece).unwrap() {
                match event {
                    Event::Data(bytes) => data.extend(bytes),
                    other => others.push(other),
                }
            }
        }
        let over = multipart.is_over();
        (data, others, multipart.fields, over)
    }

    proptest! {
        #[test]
        fn whatever_pieces_it_comes_in(content in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'B'), any::<u8>()], 0..200),
                                       chunk in 1usize..40) {
            prop_assume!(find(&content, b"\r\n--B").is_none());
            let (data, events, fields, over) = read(&body(&content), chunk);
            // What ends with a part of a delimiter is content still.
            prop_assert_eq!(data, content);
            prop_assert!(over);
            let file = Event::File { name: Some("a \"b\".png".into()), content_type: Some("image/png".into()) };
            prop_assert_eq!(events, vec![file, Event::FileEnd]);
            prop_assert_eq!(fields, BTreeMap::from([("content_type".into(), "image/png".into()), ("file_path".into(), String::new())]));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut multipart = Multipart::new("B", "file");
            let _ = multipart.feed(&bytes);
            let _ = multipart.feed(b"\r\n--B\r\n");
        }
    }

    #[test]
    fn what_is_malformed() {
        let feed = |bytes: &[u8]| Multipart::new("B", "file").feed(bytes).map(|_| ()).unwrap_err().0;
        assert_eq!(feed(b"--Bx\r\n"), "a boundary ends with a line");
        assert_eq!(feed(b"--B\r\nX: y\r\n\r\n"), "a part has no Content-Disposition");
        assert_eq!(feed(b"--B\r\nContent-Disposition: form-data\r\n\r\n"), "a part has no name");
        assert_eq!(
            feed(&[b"--B\r\n".as_slice(), &vec![b'x'; HEAD + 1]].concat()),
            "a part's head is too long"
        );
        let long =
            [b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n".as_slice(), &vec![b'x'; FIELD + 20]]
                .concat();
        assert_eq!(feed(&long), "a field is too long");
    }

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data;charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
        for none in
            ["", "multipart/form-data", "application/json; boundary=a", "multipart/form-data; boundary="]
        {
            assert_eq!(boundary(none), None, "{none}");
        }
    }
}
