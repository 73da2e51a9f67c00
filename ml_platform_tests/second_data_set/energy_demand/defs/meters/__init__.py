"""Meters that report by the hour, and the demand that is expected of them."""
