"""Show that a fault would be seen: mutate tables and weights, each mutation must be caught."""
