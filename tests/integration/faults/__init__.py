"""The catalogue of faults: what may go wrong, injected on a real server, and what happens then.

One test for each fault. The first line of its docstring is the fault; the test shows what must
happen.
"""
