//! Formats of Python packaging: wheels, RECORD, metadata, simple index, lock files.
