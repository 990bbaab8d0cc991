//! `tfoctl`'s fleet commands as an operator runs them, against a coordinator that a test tells what to say: what is
//! asked, what is shown, what is refused, and how it ends.

mod commands;
mod coordinators;
mod end_to_end;
pub(crate) mod fake;
mod gone;
mod help;
mod looking;
mod moving;
mod nodes;
mod reaching;
mod real;
mod rotating;
mod screens;
mod several;
mod verifying;
