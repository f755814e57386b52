//! `[service]` of stillframe.toml and of hosts/NAME.toml: one schema, in which everything may be left out. A
//! host's values come before the project's; what nobody says has the default given here.
pub mod arguments;
mod check;
mod deliveries;
mod receivers;
mod resolve;
mod scaling;
mod scaling_types;
pub mod system;
mod types;
mod value;
mod wrong;
pub use receivers::*;
pub use scaling_types::*;
pub use types::*;
pub use value::*;
pub use wrong::Wrong;
