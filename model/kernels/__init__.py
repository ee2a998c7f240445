"""One function per operation of the network; today the PyTorch reference serves every device."""
