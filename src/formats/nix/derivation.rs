//! Derivations: the ATerm text of a `.drv` file, byte for byte as Nix prints it, and the hash "modulo"
//! fixed outputs that the paths of input-addressed outputs come from.
use super::hash::Sha256;
use super::store_path::{
    Mode, StoreDir, StorePath, StorePathError, StorePathName, fixed_output_path, output_path, text_path,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DerivationError {
    #[error(transparent)]
    Path(#[from] StorePathError),
    #[error("the input {0} was not computed before")]
    Input(StorePath),
    #[error("ATerm: expected {expected} at byte {at}")]
    Parse { expected: &'static str, at: usize },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `None` until `finish` computes it.
    pub path: Option<StorePath>,
    /// Of a fixed output.
    pub hash: Option<(Mode, Sha256)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derivation {
    pub outputs: BTreeMap<String, Output>,
    pub input_drvs: BTreeMap<StorePath, BTreeSet<String>>,
    pub input_srcs: BTreeSet<StorePath>,
    pub system: String,
    pub builder: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

/// A derivation with everything computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub drv_path: StorePath,
    pub aterm: Vec<u8>,
    pub out: StorePath,
    /// What a derivation that depends on this one puts in its place.
    pub modulo: Sha256,
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    let special = |b: u8| matches!(b, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
    while let Some(at) = rest.bytes().position(special) {
        out.push_str(&rest[..at]);
        out.push('\\');
        out.push(match rest.as_bytes()[at] {
            b'\n' => 'n',
            b'\r' => 'r',
            b'\t' => 't',
            itself => itself.into(),
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn list<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut String, T)) {
    out.push('[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        each(out, item);
    }
    out.push(']');
}

impl Derivation {
    /// `masked`: output paths left empty, for the hash they come from. `inputs`: what stands for the
    /// input derivations (their paths, or their hashes).
    fn print(&self, store: &StoreDir, masked: bool, inputs: &BTreeMap<String, &BTreeSet<String>>) -> String {
        // Most are shorter: growing one a few bytes at a time is a tenth of what they cost.
        let mut out = String::with_capacity(2048);
        out.push_str("Derive(");
        list(&mut out, &self.outputs, |out, (name, output)| {
            let path = match &output.path {
                Some(path) if !masked => path.to_absolute(store),
                _ => String::new(),
            };
            let (algorithm, hash) = match &output.hash {
                Some((Mode::Flat, hash)) => ("sha256", hash.to_hex()),
                Some((Mode::Recursive, hash)) => ("r:sha256", hash.to_hex()),
                None => ("", String::new()),
            };
            out.push('(');
            string(out, name);
            for text in [&path, algorithm, &hash] {
                out.push(',');
                string(out, text);
            }
            out.push(')');
        });
        out.push(',');
        list(&mut out, inputs, |out, (input, outputs)| {
            out.push('(');
            string(out, input);
            out.push(',');
            list(out, *outputs, |out, name| string(out, name));
            out.push(')');
        });
        out.push(',');
        list(&mut out, &self.input_srcs, |out, path| string(out, &path.to_absolute(store)));
        for text in [&self.system, &self.builder] {
            out.push(',');
            string(&mut out, text);
        }
        out.push(',');
        list(&mut out, &self.args, |out, arg| string(out, arg));
        out.push(',');
        list(&mut out, &self.env, |out, (key, value)| {
            out.push('(');
            string(out, key);
            out.push(',');
            let hidden = masked && self.outputs.contains_key(key);
            string(out, if hidden { "" } else { value });
            out.push(')');
        });
        out.push(')');
        out
    }

    pub fn to_aterm(&self, store: &StoreDir) -> String {
        let inputs = self.input_drvs.iter().map(|(p, o)| (p.to_absolute(store), o)).collect();
        self.print(store, false, &inputs)
    }

    /// The output path of a fixed output stands for how it is made: a changed URL changes nothing
    /// that depends on it.
    fn fixed(&self, store: &StoreDir) -> Option<Sha256> {
        let output = self.outputs.get("out").filter(|_| self.outputs.len() == 1)?;
        let (mode, hash) = output.hash?;
        let mode = if mode == Mode::Recursive { "r:" } else { "" };
        let path = output.path.as_ref()?.to_absolute(store);
        Some(Sha256::of(format!("fixed:out:{mode}sha256:{}:{path}", hash.to_hex())))
    }

    fn hash_modulo(
        &self,
        store: &StoreDir,
        masked: bool,
        lookup: impl Fn(&StorePath) -> Option<Sha256>,
    ) -> Result<Sha256, DerivationError> {
        if let Some(fixed) = self.fixed(store) {
            return Ok(fixed);
        }
        let mut merged: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, outputs) in &self.input_drvs {
            let hash = lookup(path).ok_or_else(|| DerivationError::Input(path.clone()))?;
            // Two derivations of the same fixed output stand as one.
            merged.entry(hash.to_hex()).or_default().extend(outputs.iter().cloned());
        }
        let inputs = merged.iter().map(|(hash, outputs)| (hash.clone(), outputs)).collect();
        Ok(Sha256::of(self.print(store, masked, &inputs)))
    }

    /// Fills in the output paths (and the environment variables of their names) and computes the
    /// derivation's own path. `lookup` gives the hash modulo of each input derivation.
    pub fn finish(
        mut self,
        store: &StoreDir,
        name: &StorePathName,
        lookup: impl Fn(&StorePath) -> Option<Sha256>,
    ) -> Result<Finished, DerivationError> {
        let name = name.to_string();
        let outputs: Vec<String> = self.outputs.keys().cloned().collect();
        let fixed = self.outputs.values().find_map(|o| o.hash);
        // Nix has the variables in place, empty, while it hashes.
        for output in &outputs {
            self.env.insert(output.clone(), String::new());
        }
        let paths: Vec<StorePath> = match fixed {
            Some((mode, hash)) => vec![fixed_output_path(store, &name, mode, &hash)?],
            None => {
                let modulo = self.hash_modulo(store, true, &lookup)?;
                outputs.iter().map(|o| output_path(store, o, &modulo, &name)).collect::<Result<_, _>>()?
            }
        };
        for (output, path) in outputs.iter().zip(&paths) {
            self.env.insert(output.clone(), path.to_absolute(store));
            if let Some(slot) = self.outputs.get_mut(output) {
                slot.path = Some(path.clone());
            }
        }
        let aterm = self.to_aterm(store).into_bytes();
        let references = self.input_drvs.keys().chain(&self.input_srcs).cloned().collect();
        let drv_path = text_path(store, &format!("{name}.drv"), &aterm, &references)?;
        let modulo = self.hash_modulo(store, false, &lookup)?;
        let index = outputs.iter().position(|o| o == "out").unwrap_or(0);
        let out = paths[index].clone();
        Ok(Finished { drv_path, aterm, out, modulo })
    }
}
