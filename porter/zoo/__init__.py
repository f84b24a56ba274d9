"""The architectures that porter knows by name: variants, skeletons, seeded weights."""
