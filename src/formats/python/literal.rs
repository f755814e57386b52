//! Values as Python's `repr` writes them (The Python Language Reference, "Literals" and "Displays"), as far as tools write them
//! into files of their own: None, booleans, whole numbers, texts, lists, tuples, sets and dictionaries. Nothing is run.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    /// A list, a tuple or a set, in the order of the text.
    Items(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    pub fn text(&self) -> Option<&str> {
        match self {
            Literal::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A dictionary of texts.
    pub fn texts(&self) -> Option<Vec<(&str, &str)>> {
        let Literal::Dict(pairs) = self else { return None };
        pairs.iter().map(|(key, value)| Some((key.text()?, value.text()?))).collect()
    }
}

/// Values in values: no tool writes more.
const DEPTH: usize = 16;

/// The arguments of the last call of `function` with nothing but literals. `None`: there is none.
pub fn last_call(text: &str, function: &str) -> Option<Vec<Literal>> {
    let call = format!("{function}(");
    let begins = |at: &usize| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.'));
    let mut calls = text.rmatch_indices(&call).map(|(at, _)| at).filter(begins);
    calls.find_map(|at| Reader { text: &text[at + call.len()..] }.items(')', 0))
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.text = self.text.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        match self.text.strip_prefix(token) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    /// Values up to a closing bracket, with a comma behind each; one behind the last may be.
    fn items(&mut self, end: char, depth: usize) -> Option<Vec<Literal>> {
        let end = end.to_string();
        let mut items = Vec::new();
        while !self.take(&end) {
            items.push(self.value(depth)?);
            if !self.take(",") && !self.text.trim_start().starts_with(&end) {
                return None;
            }
        }
        Some(items)
    }

    fn value(&mut self, depth: usize) -> Option<Literal> {
        if depth > DEPTH {
            return None;
        }
        for (word, value) in
            [("None", Literal::None), ("True", Literal::Bool(true)), ("False", Literal::Bool(false))]
        {
            if self.take(word) {
                return Some(value);
            }
        }
        if self.take("set()") {
            return Some(Literal::Items(Vec::new()));
        }
        if self.take("[") {
            return self.items(']', depth + 1).map(Literal::Items);
        }
        if self.take("(") {
            return self.items(')', depth + 1).map(Literal::Items);
        }
        if self.take("{") {
            return self.braces(depth + 1);
        }
        match self.text.chars().next()? {
            quote @ ('\'' | '"') => self.quoted(quote).map(Literal::Text),
            _ => self.number(),
        }
    }

    /// A set or a dictionary; `{}` is one of the latter.
    fn braces(&mut self, depth: usize) -> Option<Literal> {
        let (mut items, mut pairs) = (Vec::new(), Vec::new());
        while !self.take("}") {
            let first = self.value(depth)?;
            match self.take(":") {
                true => pairs.push((first, self.value(depth)?)),
                false => items.push(first),
            }
            if !self.take(",") && !self.text.trim_start().starts_with('}') {
                return None;
            }
        }
        match (items.is_empty(), pairs.is_empty()) {
            (false, false) => None,
            (false, true) => Some(Literal::Items(items)),
            _ => Some(Literal::Dict(pairs)),
        }
    }

    fn number(&mut self) -> Option<Literal> {
        let end = self.text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.text.len());
        let (digits, rest) = self.text.split_at(end);
        self.text = rest;
        digits.parse().ok().map(Literal::Int)
    }

    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut out = String::new();
        let mut chars = self.text.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.text = &self.text[at + 1..];
                return Some(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (_, kind) = chars.next()?;
            let digits = match kind {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            let code: String = chars.by_ref().take(digits).map(|(_, digit)| digit).collect();
            let escaped = match kind {
                'x' | 'u' | 'U' => u32::from_str_radix(&code, 16).ok().and_then(char::from_u32),
                'n' => Some('\n'),
                't' => Some('\t'),
                'r' => Some('\r'),
                '\\' | '\'' | '"' => Some(kind),
                _ => None,
            };
            out.push(escaped?);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repr_writes_is_read() {
        let text = "def install(a):\n    pass\n\ninstall('old')\ninstall(\n    'na\\'me',\n    {'pkg', \"it's\"},\n    '/p/bü\\n\\x1b\\u20ac',\n    \
                    ['ninja', '-j', 2],\n    {'pkg': '/a', 'pkg.m': '/b'},\n    (), {}, set(), None, False,\n)";
        let texts = |all: &[&str]| Literal::Items(all.iter().map(|t| Literal::Text((*t).into())).collect());
        let call = last_call(text, "install").unwrap();
        assert_eq!(call[0].text(), Some("na'me"));
        assert_eq!(call[1], texts(&["pkg", "it's"]));
        assert_eq!(call[2].text(), Some("/p/bü\n\u{1b}€"));
        assert_eq!(
            call[3],
            Literal::Items(vec![Literal::Text("ninja".into()), Literal::Text("-j".into()), Literal::Int(2)])
        );
        assert_eq!(call[4].texts().unwrap(), [("pkg", "/a"), ("pkg.m", "/b")]);
        assert_eq!(
            call[5..],
            [texts(&[]), Literal::Dict(vec![]), texts(&[]), Literal::None, Literal::Bool(false)]
        );
    }

    #[test]
    fn what_is_no_literal_is_no_call() {
        for text in [
            "install(name)",
            "install('a' 'b')",
            "install('a', x=1)",
            "install('a'",
            "install({'a': 1, 'b'})",
            "reinstall('a')",
            "x.install('a')",
            "install('\\q')",
            "",
        ] {
            assert_eq!(last_call(text, "install"), None, "{text}");
        }
        let call = |text: &str| last_call(text, "install").map(|all| all.len());
        // A definition is none.
        assert_eq!(call("def install(package, path):\n  f = install('a', 1)\ninstall(more)\n"), Some(2));
        let deep = format!("install({}{})", "[".repeat(100), "]".repeat(100));
        assert_eq!(last_call(&deep, "install"), None);
    }
}
