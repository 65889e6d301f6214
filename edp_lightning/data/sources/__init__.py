"""One file per dataset format; each yields episodes."""
