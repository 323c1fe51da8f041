"""Commands that work in any folder, also outside a checkout of llmbench."""
