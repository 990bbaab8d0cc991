//! How much a store keeps, and how much one call takes or gives.

/// Audit entries that are kept for each pool: years of daily rotations.  The oldest go first.
pub const AUDIT_KEPT: u64 = 100_000;

/// Most parts in one call of [`Store::write`](crate::Store::write): bounds the transaction, about 1 MB.
pub const PARTS_MAX: usize = 1_024;

/// Most audit entries that one read returns.
pub const AUDIT_READ_MAX: usize = 1_000;
