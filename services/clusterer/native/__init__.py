"""Compiled code for what NumPy, BLAS and faiss do too slowly; `library` says what of it runs on this processor."""
