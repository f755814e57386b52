//! ELF: reading what an object needs, and patching an interpreter.
//!
//! Only what a dynamic linker looks at is read: program headers and the dynamic section. Section
//! headers are optional in a loadable object and are never trusted.
pub mod object;
pub mod patch;
pub mod read;

pub use object::{EM_AARCH64, EM_X86_64, ElfError};
pub use patch::{Patch, patch};
pub use read::{ElfInfo, looks_like_elf, parse, read};
