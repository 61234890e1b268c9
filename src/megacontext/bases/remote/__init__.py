"""Models behind an API: what a window is as text or as vectors on the wire, and the HTTP that carries it.

The HTTP library is imported here and nowhere else.
"""
