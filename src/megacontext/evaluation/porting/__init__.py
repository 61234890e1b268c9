"""Taking a model as a base: checks, measurements, chosen defaults, and the config and report that record them."""
