//! What is worth knowing while a snapshot is taken, an environment read or one made.
use crate::sys::error::Error;
use crate::sys::progress::Progress;
use std::sync::Arc;

/// Who is told how it goes.
pub trait Observer {
    fn progress(&self) -> &Arc<dyn Progress>;

    fn event(&self, event: &Event);
}

#[derive(Debug)]
pub enum Event {
    /// Another run works on the same state, and this one waits for it; none where that one does not say who it is.
    Waiting { holder: Option<String> },
    /// What was read could not be remembered: the next run reads everything again.
    NotRemembered(Error),
    /// Another snapshot had the label.
    LabelMoved { label: String, from: String, to: String },
    /// A path of the store was written to after it was registered; it is made anew.
    Damaged { path: String, how: String },
    /// The same content was registered before, under another label.
    Renamed { id: String, from: String, to: String },
}
