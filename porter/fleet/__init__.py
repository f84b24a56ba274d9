"""Many conversions and proofs: a manifest, worker processes that are kept, one summary."""
