"""What decides: order, retry, verify, write, report."""
