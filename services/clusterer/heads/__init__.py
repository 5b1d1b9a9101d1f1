"""Heads: small networks over frozen features whose outputs are the probabilities of clusters."""
