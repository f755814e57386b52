//! Many small requests: each is sent ahead of the answers to those before it, so that neither side sleeps and wakes for
//! every one. A daemon answers in order, one after another (tried: Nix 2.8 and 2.26).
use super::client::Store;
use crate::formats::nix::store_path::StorePath;
use crate::formats::nix::worker::{self, ReadWire, WriteWire, op};
use crate::sys::error::Result;
use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};

/// The most of answers that may be on their way. A daemon whose answers nobody takes stops reading; with what a pipe
/// holds at least (64 KiB) as the limit, both sides would wait for each other.
const ANSWERS: usize = 32 * 1024;
/// What an answer about one path has besides its references, generously.
const ANSWER: usize = 1024;
/// A name of a store path on the wire.
const NAME: usize = 256;

/// A text to add, as `.drv` files are.
pub struct Text<'a> {
    pub name: &'a str,
    pub references: &'a [StorePath],
    pub bytes: &'a [u8],
}

impl Store {
    /// Asks for each of `questions`; `size` says how long an answer may be.
    fn ask_ahead<Q>(
        &mut self,
        questions: impl IntoIterator<Item = Q>,
        size: impl Fn(&Q) -> usize,
        mut write: impl FnMut(&mut BufWriter<Box<dyn Write + Send>>, &Q) -> io::Result<()>,
        mut read: impl FnMut(&mut Store, Q) -> Result<()>,
    ) -> Result<()> {
        let mut open: VecDeque<(Q, usize)> = VecDeque::new();
        let mut answers = 0;
        let mut answer = |store: &mut Store, question: Q| {
            store.messages()?;
            read(store, question)
        };
        let run = |store: &mut Store| {
            for question in questions {
                let expected = size(&question);
                while answers + expected > ANSWERS
                    && let Some((earlier, taken)) = open.pop_front()
                {
                    answers -= taken;
                    answer(store, earlier)?;
                }
                let sent = store.out().and_then(|out| {
                    write(out, &question)?;
                    out.flush()
                });
                if let Err(e) = sent {
                    // It may have said why before it closed.
                    while let Some((earlier, _)) = open.pop_front() {
                        answer(store, earlier)?;
                    }
                    return Err(store.gone(e));
                }
                answers += expected;
                open.push_back((question, expected));
            }
            while let Some((earlier, _)) = open.pop_front() {
                answer(store, earlier)?;
            }
            Ok(())
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
            |_| NAME,
            |out, path| {
                out.put_number(op::ADD_TEMP_ROOT)?;
                out.put_bytes(path.to_absolute(&store_dir).as_bytes())
            },
            |store, _| store.input.number().map(drop).map_err(|e| store.gone(e)),
        )
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
            |text| ANSWER + NAME * text.references.len(),
            |out, text| {
                let references: Vec<String> =
                    text.references.iter().map(|path| path.to_absolute(&store_dir)).collect();
                let mut framed = worker::addition(out, text.name, "text:sha256", &references)?;
                framed.write_all(text.bytes)?;
                framed.finish()
            },
            |store, _| added(store.added()?.0),
        )
    }
}
