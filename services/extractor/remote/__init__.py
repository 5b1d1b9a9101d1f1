"""Images on other machines: which may be reached, and fetching them."""
