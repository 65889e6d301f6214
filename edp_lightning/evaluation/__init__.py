"""Episodes, what they say, and what is written about them."""
