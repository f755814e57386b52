//! From a directory to a tree of files: what is read, what stays out, and how paths are named.
pub mod clean;
pub mod collect;
pub mod left_out;
pub mod lfs;
pub mod own_path;
pub mod paths;
pub mod rules;
pub mod secrets;
pub mod walk;
