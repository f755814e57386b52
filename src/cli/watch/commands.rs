//! What keys of `watch` do: the commands of the same names, by those commands.
use super::model::{Act, News};
use crate::deploy::own_command;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

pub struct Commands {
    pub config: Option<PathBuf>,
    pub hosts: Option<String>,
    pub tell: Sender<News>,
}

impl Commands {
    pub fn begin(&mut self, act: Act) {
        let tell = self.tell.clone();
        let begun = own_command::begin(act.word(), self.config.as_deref(), self.hosts.as_deref());
        std::thread::spawn(move || {
            let text = match begun {
                Ok(running) => running.outcome(),
                Err(e) => e.full(),
            };
            // Nobody to tell: the screen is closed.
            let _ = tell.send(News::Done(text));
        });
    }
}
