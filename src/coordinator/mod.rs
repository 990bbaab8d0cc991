//! `tfo-coordinator`: makes keys, walks pools through rotations, shows their state.

pub mod backup;
