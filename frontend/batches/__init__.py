"""Batches: files of requests that are run behind live traffic, and outlive every process."""
