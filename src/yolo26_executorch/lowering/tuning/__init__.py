"""Which tile a convolution gets: measured tables, a cost model, and a search on the GPU."""
