//! Many small requests: each is sent ahead of the answers to those before it, so that neither side sleeps and wakes for
//! every one. A daemon answers in order, one after another (tried: Nix 2.8 and 2.26).
use super::client::{PathInfo, Store};
use crate::formats::nix::nar::{Hashing, NarWriter};
use crate::formats::nix::store_path::StorePath;
use crate::formats::nix::worker::{ReadWire, WriteWire, op};
use crate::sys::error::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::thread;
use std::time::{Duration, Instant};

/// The most of answers that may be on their way. A daemon whose answers nobody takes stops reading; with what a pipe
/// holds at least (64 KiB) as the limit, both sides would wait for each other.
const ANSWERS: u32 = 32 * 1024;
/// What an answer that names a path may have, generously.
const ANSWER: u32 = 1024;
/// Sixteen texts take a daemon about 5 ms.
const NAP: Duration = Duration::from_millis(10);

/// A text to add, as `.drv` files are.
pub struct Text<'a> {
    pub name: &'a str,
    pub references: &'a [StorePath],
    pub bytes: &'a [u8],
}

impl Text<'_> {
    /// What the store has on record of it.
    pub fn info(&self) -> Result<PathInfo> {
        let archive = || -> io::Result<Hashing> {
            let mut nar = NarWriter::new(Hashing::default())?;
            let size = self.bytes.len() as u64;
            nar.file::<io::Error>(b"", false, size, |out| out.write_all(self.bytes))?;
            nar.finish()
        };
        let archive = archive().map_err(|e| Error::new(Kind::Store, "cannot hash a text").caused_by(e))?;
        let (nar_hash, nar_size) = archive.finish();
        let references = self.references.iter().cloned().collect();
        Ok(PathInfo { nar_hash, nar_size, references, deriver: None, ca: String::new() })
    }
}

impl Store {
    /// Asks for each of `questions`; no answer is longer than `longest`.
    fn ask_ahead<Q>(
        &mut self,
        questions: impl IntoIterator<Item = Q>,
        longest: u32,
        mut write: impl FnMut(&mut BufWriter<Box<dyn Write + Send>>, Q) -> io::Result<()>,
        mut read: impl FnMut(&mut Store) -> Result<()>,
    ) -> Result<()> {
        let mut answer = |store: &mut Store| {
            store.messages()?;
            read(store)
        };
        let started = Instant::now();
        let (mut open, mut answered) = (0, 0);
        // Half of what is open, and the daemon goes on with the other. Not before about that many are there: waking
        // us for each costs the daemon a twelfth of its time (a virtual machine). That it was held up once (a collection
        // of garbage, say) is no reason to wait as long again.
        let mut answers = |store: &mut Store, wanted: u32| {
            if answered > 0 {
                thread::sleep((started.elapsed() / answered * wanted * 3 / 4).min(NAP));
            }
            answered += wanted;
            (0..wanted).try_for_each(|_| answer(store))
        };
        let run = |store: &mut Store| {
            for question in questions {
                if open == ANSWERS / longest {
                    let half = open / 2;
                    answers(store, half)?;
                    open -= half;
                }
                let sent = store.out().and_then(|out| {
                    write(out, question)?;
                    out.flush()
                });
                if let Err(e) = sent {
                    // It may have said why before it closed.
                    answers(store, open)?;
                    return Err(store.gone(e));
                }
                open += 1;
            }
            answers(store, open)
        };
        let result = run(self);
        if result.is_err() {
            // The answers that are still to come belong to no later question.
            self.output = None;
        }
        result
    }

    /// Keeps each of them from the garbage collector, there already or not, for as long as this connection lasts.
    pub fn add_temp_roots<'a>(&mut self, paths: impl IntoIterator<Item = &'a StorePath>) -> Result<()> {
        let store_dir = self.store_dir.clone();
        self.ask_ahead(
            paths,
            256,
            |out, path| {
                out.put_number(op::ADD_TEMP_ROOT)?;
                out.put_bytes(path.to_absolute(&store_dir).as_bytes())
            },
            |store| store.input.number().map(drop).map_err(|e| store.gone(e)),
        )
    }

    /// What the store has on record of those that it has.
    pub fn infos(&mut self, paths: &BTreeSet<StorePath>) -> Result<BTreeMap<StorePath, PathInfo>> {
        let store_dir = self.store_dir.clone();
        let (mut asked, mut found) = (paths.iter(), BTreeMap::new());
        self.ask_ahead(
            paths,
            // A path may have any number of references. But what is asked for ahead is less than a pipe holds: so we never
            // wait for a daemon that waits for us.
            2 * ANSWER,
            |out, path| {
                out.put_number(op::QUERY_PATH_INFO)?;
                out.put_bytes(path.to_absolute(&store_dir).as_bytes())
            },
            |store| {
                if let (Some(path), Some(info)) = (asked.next(), store.read_info()?) {
                    found.insert(path.clone(), info);
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Adds texts in this order: one comes after those it refers to. `added` hears where each is.
    pub fn add_texts<'a>(
        &mut self,
        texts: impl IntoIterator<Item = Text<'a>>,
        mut added: impl FnMut(StorePath) -> Result<()>,
    ) -> Result<()> {
        let store_dir = self.store_dir.clone();
        self.ask_ahead(
            texts,
            ANSWER,
            |out, text| {
                let references: Vec<String> =
                    text.references.iter().map(|path| path.to_absolute(&store_dir)).collect();
                out.put_number(op::ADD_TEXT_TO_STORE)?;
                out.put_bytes(text.name.as_bytes())?;
                out.put_bytes(text.bytes)?;
                out.put_strings(&references)
            },
            |store| {
                let path = store.input.string().map_err(|e| store.gone(e))?;
                added(store.parse(&path)?)
            },
        )
    }
}
