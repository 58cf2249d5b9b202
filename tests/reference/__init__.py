"""Plain models: one sequence, one sample, one step at a time, straight from the equations.

Slow and without any of the package's code; they share only the parameters, by name.
"""
