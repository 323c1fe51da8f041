"""Commands that work in any folder, without a checkout of llmbench around it."""
