"""Commands that work in any folder, also outside a clone of llmbench."""
