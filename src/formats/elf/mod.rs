//! ELF: reading what an object needs, and patching an interpreter.
