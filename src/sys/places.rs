//! Marks in files that ship, for places that only a host knows: a capture puts them where a text names the environment's own
//! folders, and an instance's slot has the place itself.

/// A place of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// What ComfyUI takes for its base directory: packs, models and cache are below it.
    Base,
    /// The main program.
    Main,
    Models,
    Input,
    Output,
    User,
    Temp,
    /// The prefix of the Python environment.
    Python,
}

impl Place {
    pub const ALL: [Place; 8] = [
        Place::Base,
        Place::Main,
        Place::Models,
        Place::Input,
        Place::Output,
        Place::User,
        Place::Temp,
        Place::Python,
    ];

    /// No format gives the at sign a meaning within a text.
    pub fn mark(self) -> &'static str {
        match self {
            Place::Base => "@stillframe:base@",
            Place::Main => "@stillframe:main@",
            Place::Models => "@stillframe:models@",
            Place::Input => "@stillframe:input@",
            Place::Output => "@stillframe:output@",
            Place::User => "@stillframe:user@",
            Place::Temp => "@stillframe:temp@",
            Place::Python => "@stillframe:python@",
        }
    }
}
