"""A clustering to look at: one HTML page, and one picture. What the API reads of it needs no drawing library."""
