//! A line for people on standard error. `eprintln!` panics where nobody takes it: a full disk behind a log, a terminal
//! that is gone, a journal that is started again. What is being done must not end for that.
use std::fmt::Display;

#[cfg(not(test))]
pub fn say(text: impl Display) {
    use std::io::Write;
    // In one piece: other threads and programs write there too. Nobody is left to be told that it failed.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The test runner keeps what this macro prints, and shows it of what failed alone.
/// "1 pack", "2 packs".
pub fn counted(count: usize, one: &str, several: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {several}") }
}

#[cfg(test)]
pub fn say(text: impl Display) {
    eprintln!("{text}");
}
