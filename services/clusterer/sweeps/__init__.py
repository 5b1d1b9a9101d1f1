"""Sweeps: many clusterings of the same embeddings, compared in one table and in plots."""
