"""Stage one: a frozen teacher runs once over every image; the only code that knows teachers."""
