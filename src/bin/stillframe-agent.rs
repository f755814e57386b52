//! The host's program: agent and gateway; everything is in the library.
fn main() -> std::process::ExitCode {
    stillframe::agent::main()
}
