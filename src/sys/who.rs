//! Who runs this program, and where: for the records of what was done.

/// `user@workstation`.
pub fn me() -> String {
    format!("{}@{}", user(), host())
}

/// The user, as the session or passwd(5) names it.
pub fn user() -> String {
    std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .or_else(|_| passwd_name(rustix::process::getuid().as_raw()).ok_or(()))
        .unwrap_or_else(|()| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// As passwd(5) has it.
fn passwd_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|f| f.get(2).is_some_and(|id| *id == uid.to_string())).map(|f| f[0].to_string())
}

/// The name of this machine.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
