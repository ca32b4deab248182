"""Benchmarks of the whole system and of its parts, for `commonplace bench`; nothing else imports them."""
