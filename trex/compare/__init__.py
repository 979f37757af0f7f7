"""TReX beside other ways to make a vision transformer cheaper, on the same chip."""
