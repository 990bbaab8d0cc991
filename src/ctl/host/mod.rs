//! TFO diagnostics for one host: what its kernel does, and what servers do from outside.
