"""Measuring: hidden facts, continuations, the methods that compete for one budget, costs, reports and the demo."""
