"""One group of calls per noun of the API."""
