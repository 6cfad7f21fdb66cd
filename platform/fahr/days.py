"""Files hold days, people speak of years: the one factor between them."""

DAYS_PER_YEAR = 365.25
