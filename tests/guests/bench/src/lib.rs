//! What the proofs measure, one event a call.

tendon_sdk::handler!(work::handle, init = work::init);
