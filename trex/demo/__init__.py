"""What `trex demo` needs of its own: real images, and a small model trained on them."""
