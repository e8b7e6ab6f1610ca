//! What our tests are made of: suites as public functions, the simulation, proofs, and the real binary in a folder.

pub mod bench;
pub mod binary;
pub mod both;
pub mod deployments;
pub mod faulty;
pub mod gap;
pub mod guests;
pub mod letter_suite;
pub mod native;
pub mod park_suite;
pub mod place;
mod policy_case;
pub mod policy_suite;
pub mod project;
pub mod proof;
pub mod reflex_suite;
pub mod rewrite_suite;
pub mod servers;
pub mod shelf;
pub mod sim;
pub mod source_suite;
pub mod state_suite;
pub mod store_suite;
pub mod sweep_suite;
