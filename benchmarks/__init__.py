"""Commands that measure Sextet, one per published table.

The import of the package sets up the process, because the setup must precede the import of torch.
"""

from training import runtime

runtime.set_up_process()
