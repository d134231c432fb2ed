"""What the kernel says of this machine and of the control groups of this process."""
