//! The fault matrix: three coordinators on three members of etcd, eight nodes with live clients, and what may happen to all of
//! them in the middle of a rotation (docs/reference/fault-matrix.md).
//!
//! Rows that leave the others alone share a bed, because making one takes a while; `TFO_ROWS=1,7` runs some of them.  After its
//! rows the whole history of a bed is judged ([`tfo_testbed::history`]).

#[cfg(test)]
mod bed;
#[cfg(test)]
mod coordinators;
#[cfg(test)]
mod cut_off;
#[cfg(test)]
mod full;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod members;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod without;
