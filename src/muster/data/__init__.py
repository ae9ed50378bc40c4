"""One file per data set, the partitions, and the memory-mapped store on disk."""
