"""Evaluations: the rows of a data set answered shard by shard, and what is known of the whole after each."""
