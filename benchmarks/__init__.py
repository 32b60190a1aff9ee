"""Files, devices and limits go in, verdicts come out."""
