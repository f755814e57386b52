//! The workstation's program; everything is in the library.
fn main() -> std::process::ExitCode {
    stillframe::cli::main()
}
