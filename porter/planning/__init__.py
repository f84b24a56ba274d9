"""Plans: which tensor goes where, decided by names, dtypes and shapes only."""
