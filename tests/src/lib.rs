//! What our tests are made of: suites as public functions, the simulation, proofs, and the real binary in a folder.

pub mod guests;
pub mod shelf;
