"""What exists: tasks, networks, their cost, their limits and the device classes they are for."""
