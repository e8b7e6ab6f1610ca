//! What the proofs measure, many events a call.

tendon_sdk::batch_handler!(work::handle_batch, init = work::init);
