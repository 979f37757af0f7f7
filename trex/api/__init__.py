"""What commands and programs call: one function a verb, the same for both.

`import trex` shows these functions; the commands under `trex/commands/` read flags and print what
the functions return.
"""
