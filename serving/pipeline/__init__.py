"""The steps of a request: encode, eligibility, slate."""
