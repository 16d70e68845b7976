"""Pseudo-labels: what they are, and how sure the teacher is of them."""
