"""Teachers: training them to ignore the recording device, averaging them, and measuring what is left."""
