"""A live page on loopback: who may see it, how it is served and drawn, and its words in three languages."""
