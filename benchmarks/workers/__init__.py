"""A process for each contestant, told by lines of JSON what to run.

The packages listen to every session there is, and Django wants settings of its own, so none can
share a process with another. And because each waits for orders, the rounds of all of them can be
interleaved: what disturbs the machine disturbs all.
"""
