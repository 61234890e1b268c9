"""Ways to give a model with a small window a long history, behind one interface: what is compared with what."""
