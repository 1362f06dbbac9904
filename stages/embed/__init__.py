"""Stage one: SAM's image encoder runs once over every image; the only code that knows SAM."""
