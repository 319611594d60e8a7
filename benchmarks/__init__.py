"""Commands that measure Sextet, one per published table.

Importing the package sets up the process, because that must precede the import of torch.
"""

from training import runtime

runtime.set_up_process()
