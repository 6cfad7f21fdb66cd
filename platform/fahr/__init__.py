"""fahr: reads health from face photographs. Research use only; not a medical device.

The library knows images, tables, tensors and statistics; it never imports ray (jobs/ and serve/ do).
"""
