"""What happened, on one page: an HTML report of one run or of several, and curves for a paper."""
