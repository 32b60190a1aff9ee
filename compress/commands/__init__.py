"""What the commands of `compress` do, one file each; imported when the command is called."""
