"""edgepress beside other pruning tools, all in one run with equal training; the tools are optional packages."""
