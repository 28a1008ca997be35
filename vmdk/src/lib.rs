//! vmdk
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]
mod allocate;
mod check;
mod check_grains;
mod check_stream;
mod codec;
mod cowd;
mod create;
mod descriptor;
mod extent;
mod extent_line;
mod header;
mod hosted;
mod layer;
mod marker;
mod open;
mod probe;
mod resize;
mod sesparse;
mod stream;
mod tables;
mod template;
mod unit;
mod write;

pub use create::{
    AdapterType, ChildOptions, CreateOptions, MAX_SIZE, Subformat, create, create_child, file_size,
};
pub use layer::VmdkLayer;
pub use open::{OpenOptions, open};
pub use probe::probe;
