"""Finding what is wrong with an aggregate or an update, and building the bytes that prove it. No chain, no store."""
