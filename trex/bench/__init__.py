"""Time on a real machine: variants side by side, and a machine's profile as a device."""
