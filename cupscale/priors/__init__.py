"""The paper's three priors, one module each."""
