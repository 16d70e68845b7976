"""The report: experiments side by side, as one HTML page."""
