"""Sessions over a memory: windows, decoding, and the one assembly that wires ports to parts."""
