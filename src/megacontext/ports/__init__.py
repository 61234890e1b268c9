"""The protocols between rooms: what a part must offer to be plugged in. Data classes and protocols only."""
