"""Cards, publishing, revisions, and the loopback Hub. Imports no other room; nothing heavy at import."""
