"""An evaluation while it runs: what is asked for, the memories of its histories, trials, and records that survive."""
