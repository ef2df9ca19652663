"""Exact evaluation: metrics, intervals, slices, comparison and report."""
