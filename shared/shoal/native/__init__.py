"""Compiled code: how a service's C++ sources become libraries, and what the processor that runs them can do."""
