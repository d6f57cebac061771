"""Models of a user's own, for `own_models.NAME`: what a study must take, and what `vmap` cannot."""
