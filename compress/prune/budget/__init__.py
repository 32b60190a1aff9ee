"""Groups, scores and budgets go in, the channels that are kept come out."""
