//! Attacks on a real coordinator, with its fleet beside them: readers that do not read, an enrolled node that will not be
//! quiet, strangers at the door, and at the door of enrolment.

mod enrolment;
mod insider;
mod readers;
mod strangers;
