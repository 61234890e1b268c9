"""The working context and what moves it: lenses say where detail pays, allocators turn that into cuts. No torch."""
