//! Reading the ATerm text of a `.drv` file.
use super::derivation::{Derivation, DerivationError, Output};
use super::hash::Sha256;
use super::store_path::{Mode, StoreDir, StorePath};

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

type Result<T> = std::result::Result<T, DerivationError>;

impl Reader<'_> {
    fn bad<T>(&self, expected: &'static str) -> Result<T> {
        Err(DerivationError::Parse { expected, at: self.at })
    }

    fn next_is(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn token(&mut self, token: &'static str) -> Result<()> {
        if self.next_is(token) { Ok(()) } else { self.bad(token) }
    }

    fn string(&mut self) -> Result<String> {
        self.token("\"")?;
        let start = self.at;
        let mut bytes = Vec::new();
        loop {
            let Some(byte) = self.text.get(self.at) else { return self.bad("the end of a string") };
            self.at += 1;
            bytes.push(match byte {
                b'"' => break,
                b'\\' => {
                    let Some(escaped) = self.text.get(self.at) else {
                        return self.bad("an escaped character");
                    };
                    self.at += 1;
                    match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        itself => *itself,
                    }
                }
                itself => *itself,
            });
        }
        String::from_utf8(bytes).map_err(|_| DerivationError::Parse { expected: "text in UTF-8", at: start })
    }

    fn path(&mut self, store: &StoreDir) -> Result<StorePath> {
        Ok(StorePath::from_absolute(store, &self.string()?)?)
    }

    fn list(&mut self, mut each: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.token("[")?;
        if self.next_is("]") {
            return Ok(());
        }
        loop {
            each(self)?;
            if !self.next_is(",") {
                return self.token("]");
            }
        }
    }

    fn output(&mut self, store: &StoreDir) -> Result<(String, Output)> {
        self.token("(")?;
        let name = self.string()?;
        self.token(",")?;
        let path = match self.string()? {
            none if none.is_empty() => None,
            text => Some(StorePath::from_absolute(store, &text)?),
        };
        self.token(",")?;
        let start = self.at;
        let mode = match self.string()?.as_str() {
            "" => None,
            "sha256" => Some(Mode::Flat),
            "r:sha256" => Some(Mode::Recursive),
            _ => return Err(DerivationError::Parse { expected: "sha256 or r:sha256", at: start }),
        };
        self.token(",")?;
        let start = self.at;
        let hash = self.string()?;
        let hash = match mode {
            None if hash.is_empty() => None,
            None => return Err(DerivationError::Parse { expected: "no hash", at: start }),
            Some(mode) => {
                let hash = Sha256::parse(&format!("sha256:{hash}"))
                    .map_err(|_| DerivationError::Parse { expected: "a hash", at: start })?;
                Some((mode, hash))
            }
        };
        self.token(")")?;
        Ok((name, Output { path, hash }))
    }

    fn derivation(&mut self, store: &StoreDir) -> Result<Derivation> {
        let mut drv = Derivation::default();
        self.token("Derive(")?;
        self.list(|r| {
            let (name, output) = r.output(store)?;
            drv.outputs.insert(name, output);
            Ok(())
        })?;
        self.token(",")?;
        self.list(|r| {
            r.token("(")?;
            let input = r.path(store)?;
            r.token(",")?;
            let wanted = drv.input_drvs.entry(input).or_default();
            r.list(|r| {
                wanted.insert(r.string()?);
                Ok(())
            })?;
            r.token(")")
        })?;
        self.token(",")?;
        self.list(|r| {
            drv.input_srcs.insert(r.path(store)?);
            Ok(())
        })?;
        self.token(",")?;
        drv.system = self.string()?;
        self.token(",")?;
        drv.builder = self.string()?;
        self.token(",")?;
        self.list(|r| {
            drv.args.push(r.string()?);
            Ok(())
        })?;
        self.token(",")?;
        self.list(|r| {
            r.token("(")?;
            let key = r.string()?;
            r.token(",")?;
            drv.env.insert(key, r.string()?);
            r.token(")")
        })?;
        self.token(")")?;
        if self.at == self.text.len() { Ok(drv) } else { self.bad("the end") }
    }
}

impl Derivation {
    /// The derivation that a `.drv` file holds: of a kind that Nix has had since 2.0, its fixed outputs by SHA-256.
    pub fn parse(store: &StoreDir, text: &[u8]) -> Result<Derivation> {
        Reader { text, at: 0 }.derivation(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_derivation_is_named_with_its_place() {
        let store = StoreDir::default();
        let text = r#"Derive([("out","","","")],[],[],"s","b",["a\n\"\\"],[("k","v")])"#;
        let drv = Derivation::parse(&store, text.as_bytes()).unwrap();
        assert_eq!(drv.to_aterm(&store), text);
        assert_eq!(drv.args, ["a\n\"\\"]);
        let error = |text: &[u8]| Derivation::parse(&store, text).unwrap_err().to_string();
        assert_eq!(error(b""), "ATerm: expected Derive( at byte 0");
        assert_eq!(error(b"Derive([)"), "ATerm: expected ( at byte 8");
        assert_eq!(error(b"Derive([(\"out"), "ATerm: expected the end of a string at byte 13");
        assert_eq!(error(b"Derive([(\"out\\"), "ATerm: expected an escaped character at byte 14");
        assert_eq!(error(b"Derive([(\"\xff\""), "ATerm: expected text in UTF-8 at byte 10");
        assert_eq!(error(b"Derive([(\"out\",\"\",\"md5\""), "ATerm: expected sha256 or r:sha256 at byte 18");
        assert_eq!(error(b"Derive([(\"out\",\"\",\"sha256\",\"x\""), "ATerm: expected a hash at byte 27");
        assert_eq!(error(b"Derive([(\"out\",\"\",\"\",\"x\""), "ATerm: expected no hash at byte 21");
        assert_eq!(
            error(format!("{text} ").as_bytes()),
            format!("ATerm: expected the end at byte {}", text.len())
        );
        // Every beginning of it is refused.
        for end in 0..text.len() {
            assert!(Derivation::parse(&store, &text.as_bytes()[..end]).is_err());
        }
    }
}
