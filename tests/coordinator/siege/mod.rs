//! Attacks on a real coordinator, with its fleet beside them: readers that do not read, an enrolled node that will not be
//! quiet, strangers at the door.

mod insider;
mod readers;
mod strangers;
